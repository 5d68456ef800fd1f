"""What a run of training needs beside the steps: files, checkpoints, validation, alarms, tracking."""
