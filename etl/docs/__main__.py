"""Writes the made pages."""

from etl.docs import ROOT, pages

for path, text in pages().items():
    path.write_text(text, encoding="utf-8")
    print(path.relative_to(ROOT))
