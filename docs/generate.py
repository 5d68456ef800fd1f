"""Writes docs/reference from the code: the settings, a page for each public module, and the changelog; and a page for
each notebook, as it was run."""

from pathlib import Path

from nbconvert import MarkdownExporter
from traitlets.config import Config

from what_next.settings import reference

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "what_next"
TARGET = ROOT / "docs" / "reference"
NOTEBOOKS = ROOT / "docs" / "notebooks"
ONE_TEXT = Config({"CoalesceStreamsPreprocessor": {"enabled": True}})
"""Lines that were printed one after the other stand together."""


def settings_page() -> str:
    """The table of all settings."""
    rows = [
        f"| `{setting.key}` | {setting.description} | {setting.allowed} | "
        f"{'required' if setting.default is None else f'`{setting.default}`'} |"
        for setting in reference()
    ]
    head = ["# Every setting", "", "| key | meaning | allowed | default |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


def public_modules() -> list[str]:
    """The dotted names of all modules whose names do not start with an underscore."""
    names = []
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(["what_next", *parts]))
    return names


def notebook_pages() -> None:
    """Beside each notebook its page, and the pictures that it shows."""
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        pictures = f"{file.stem}_files"
        names = {"unique_key": file.stem, "output_files_dir": pictures}
        text, found = MarkdownExporter(config=ONE_TEXT).from_filename(str(file), names)
        (NOTEBOOKS / pictures).mkdir(exist_ok=True)
        for name, content in found["outputs"].items():
            (NOTEBOOKS / name).write_bytes(content)
        file.with_suffix(".md").write_text(text)


def main() -> None:
    """Write every page."""
    notebook_pages()
    TARGET.mkdir(parents=True, exist_ok=True)
    for stale in TARGET.glob("*.md"):
        stale.unlink()
    modules = [name for name in public_modules() if name != "what_next"]
    links = [f"- [`{name}`]({name}.md)" for name in modules]
    (TARGET / "index.md").write_text("\n".join(["# Python", "", "::: what_next", "", "## Modules", "", *links]) + "\n")
    (TARGET / "settings.md").write_text(settings_page())
    (TARGET / "changelog.md").write_text((ROOT / "CHANGELOG.md").read_text())
    for name in modules:
        (TARGET / f"{name}.md").write_text(f"# `{name}`\n\n::: {name}\n")


if __name__ == "__main__":
    main()
