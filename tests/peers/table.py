"""The tables of compare.py in a Markdown file: rows that were measured replace those of the same name, the others stay.

usage: table.py --self-test
"""
import sys

BEGIN, END = "<!-- bench-peers -->", "<!-- end -->"
TIMES = ["CPU least", "CPU median", "wall least", "wall median"]
# Columns, and how many of them name a row.
TABLES = ((["figure", "floor", "aim", *TIMES, "runs", "date"], 1),
          (["case", "program", *TIMES, "rollout, reference, update: CPU s", "peak MiB", "runs", "date"], 2))
# The columns of an older table, by the newer ones' names.
OLDER = {"measured": ["CPU least"], "step, wall s: least, median": ["wall least", "wall median"], "CPU s: least": ["CPU least"]}


def cells(line):
    return [c.strip() for c in line.strip().strip("|").split("|")]


def parse(text):
    """The rows of all tables of a text, each a dict by column."""
    rows, head = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = cells(line)
        elif not set(line) <= set("|-: "):
            row = {}
            for name, value in zip(head, cells(line)):
                names = OLDER.get(name, [name])
                row.update(zip(names, value.split(", ") if len(names) > 1 else [value]))
            if "figure" in row:
                row["figure"] = row["figure"].replace("CPU seconds / ", "seconds / ")
            rows.append(row)
    return rows


def merge(old, new, key):
    """New rows in the place of old ones of the same name, then those that are new."""
    name = lambda row: tuple(row.get(k) for k in key)
    fresh = {name(row): row for row in new}
    known = {name(row) for row in old}
    return [fresh.get(name(row), row) for row in old] + [row for row in new if name(row) not in known]


def text(tables):
    out = []
    for (columns, _), rows in zip(TABLES, tables):
        lines = [columns, ["---"] * len(columns)] + [[row.get(c, "") for c in columns] for row in rows]
        out.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(out)


def merged(document, stamp, tables):
    head, rest = document.split(BEGIN)
    block, tail = rest.split(END, 1)
    old, out = parse(block), []
    for (columns, keys), new in zip(TABLES, tables):
        out.append(merge([row for row in old if columns[0] in row], new, columns[:keys]))
    kept = any(row.get("date") != new_date(tables) for rows in out for row in rows)
    notes = block.rsplit("|\n", 1)[-1].strip() if kept else ""
    return head + BEGIN + "\n" + stamp + "\n\n" + text(out) + "\n" + (f"\n{notes}\n" if notes else "") + END + tail


def new_date(tables):
    return next((row["date"] for rows in tables for row in rows), None)


def write(path, stamp, tables):
    with open(path) as f:
        document = f.read()
    with open(path, "w") as f:
        f.write(merged(document, stamp, tables))


def self_test():
    new = [[{"figure": "b", "floor": "1", "aim": "2", "CPU least": "9.00", "runs": "5", "date": "d"}],
           [{"case": "x", "program": "q", "wall least": "3.00", "date": "d"}]]
    before = (f"head {BEGIN}\nold stamp\n\n| figure | floor | aim | measured |\n|---|---|---|---|\n| a | 1 | 2 | 5.00 |\n"
              "| b | 1 | 2 | 1.00 |\n\n| case | program | step, wall s: least, median | CPU s: least |\n|---|---|---|---|\n"
              f"| x | p | 1.50, 2.50 | 4.00 |\n\nA note.\n{END} tail\n")
    after = merged(before, "stamp", new)
    rows = parse(after)
    assert [r.get("CPU least") for r in rows] == ["5.00", "9.00", "4.00", ""], rows
    assert [r.get("wall median") for r in rows] == ["", "", "2.50", ""], rows
    assert after.startswith("head ") and after.endswith(" tail\n") and "A note." in after and "old stamp" not in after
    assert parse(merged(after, "stamp", [[], []])) == rows
    print("4 passed, 0 failed")


if __name__ == "__main__":
    if sys.argv[1:] != ["--self-test"]:
        sys.exit(__doc__)
    self_test()
