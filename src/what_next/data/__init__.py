"""From files to a clean, columnar data set with its catalogue and its splits."""

from what_next.data.catalogue import Catalogue
from what_next.data.dataset import Dataset
from what_next.data.importing.cleaning import import_files
from what_next.data.importing.tables import Options, Tables, save
from what_next.data.splits import Split, split_leave_last_out, split_time, split_users

__all__ = [
    "Catalogue",
    "Dataset",
    "Options",
    "Split",
    "Tables",
    "import_files",
    "save",
    "split_leave_last_out",
    "split_time",
    "split_users",
]
