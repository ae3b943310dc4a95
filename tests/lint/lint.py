#!/usr/bin/env python3
"""Holds the tree to the rules of the house: python3 tests/lint/lint.py [--self-test] [--stats]

Each rule is a function of the whole tree (a dict: path -> text) that yields (path, line, message). One line a rule is
printed; exit 1 if any rule found something. --self-test feeds each rule a small tree that breaks it and one that does
not: a rule that cannot fail is no rule. --stats prints what is only looked at: long files and long functions.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NOT_OURS = ("tests/data/", "tests/fuzz/corpus/", "web/vendor/", "tests/peers/")
C_LIKE = (".c", ".h", ".comp", ".glsl", ".h.in")
CODE = C_LIKE + (".py", ".sh", ".js", ".css", ".html", ".sql", ".build", "meson_options.txt")
AIM_COLUMNS, MAX_COLUMNS = 120, 132
MAX_FILE = 600
MAX_FUNCTION = 80


def load_tree():
    listing = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True)
    if listing.returncode == 0:
        paths = [p.decode() for p in listing.stdout.split(b"\0") if p]
    else:  # an unpacked archive
        paths = []
        for folder, below, names in os.walk(ROOT):
            below[:] = [b for b in below if not b.startswith((".git", "build", "demo-out", "vireo-data"))]
            paths += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names]
    tree = {}
    for path in sorted(paths):
        full = os.path.join(ROOT, path)
        if path.startswith(NOT_OURS) or not os.path.isfile(full):
            continue
        with open(full, "rb") as f:
            raw = f.read()
        if b"\0" in raw[:4096]:
            continue
        tree[path] = raw.decode("utf-8", "surrogateescape")
    return tree


def is_script(path, text):
    return path.endswith(".sh") or text.startswith("#!")


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


TOKENS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def bare(text):
    """C text with comments and the insides of strings blanked out; lines stay where they are."""
    return TOKENS.sub(blank, text)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


# --- layers and homes

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.M)


def read_table(tree):
    rows, homes, libc = {}, {}, set()
    for raw in tree.get("tests/lint/layers.txt", "").splitlines():
        line = raw.split("#")[0].strip()
        if not line:
            continue
        key, _, rest = line.partition(":")
        if key == "libc":
            libc.update(rest.split())
        elif key.startswith("home "):
            homes.setdefault(key[5:].strip(), []).extend(rest.split())
        else:
            rows.setdefault(key, []).extend(rest.split())
    return rows, homes, libc


def folder_row(path, rows):
    folder = os.path.dirname(path)
    while folder and folder not in rows:
        folder = os.path.dirname(folder)
    return folder


def covers(allowed, header):
    return any(header == a or header.startswith(a + "/") for a in allowed)


def rule_layers(tree):
    rows, _, _ = read_table(tree)
    for path, text in tree.items():
        if not path.endswith(C_LIKE) or "/" not in path:
            continue
        folder = folder_row(path, rows)
        if not folder:
            yield path, 1, "no row of tests/lint/layers.txt covers this file"
            continue
        allowed = rows[folder] + rows.get(path, [])
        if "*" in allowed:
            continue
        for match in INCLUDE.finditer(text):
            header = match.group(2)
            if match.group(1) == "<":
                continue
            own = os.path.dirname(header)
            if "/" not in header:
                if header not in allowed and not header.endswith("_list.h"):
                    yield path, line_of(text, match.start()), f'"{header}": name it from the root'
                continue
            if own == os.path.dirname(path) or own == folder or own == "compute/base" and folder != "shaders":
                continue
            if not covers(allowed, header):
                yield path, line_of(text, match.start()), f"{folder} may not include {header}"


def rule_layers_no_circle(tree):
    rows, _, _ = read_table(tree)
    folders = {k: {d for d in rows if covers(v, d) or any(os.path.dirname(a) == d for a in v if a.endswith(".h"))} - {k}
               for k, v in rows.items() if not k.endswith((".c", ".h")) and "*" not in v}
    state = {}

    def visit(folder, trail):
        if state.get(folder) == "done":
            return None
        if folder in trail:
            return trail[trail.index(folder):] + [folder]
        for below in sorted(folders.get(folder, ())):
            found = visit(below, trail + [folder])
            if found:
                return found
        state[folder] = "done"
        return None

    for folder in folders:
        found = visit(folder, [])
        if found:
            yield "tests/lint/layers.txt", 1, "circle: " + " -> ".join(found)
            return


def rule_homes(tree):
    _, homes, libc = read_table(tree)
    for path, text in tree.items():
        if not path.endswith(C_LIKE):
            continue
        for match in INCLUDE.finditer(text):
            header = match.group(2)
            if match.group(1) != "<" or header in libc:
                continue
            line = line_of(text, match.start())
            if header not in homes:
                yield path, line, f"<{header}> has no home in tests/lint/layers.txt"
            elif not covers(homes[header], path):
                yield path, line, f"<{header}> lives in {' '.join(homes[header])} alone"


PROCESS_CALLS = re.compile(r"(?<![\w.>])(fork|vfork|execv|execve|execvp|execl|execlp|posix_spawn|waitpid|system|popen)\s*\(")


def rule_processes(tree):
    for path, text in tree.items():
        if not path.endswith((".c", ".h")) or path.startswith(("server/jobs/", "compute/base/", "tests/")):
            continue
        for match in PROCESS_CALLS.finditer(bare(text)):
            yield path, line_of(text, match.start()), f"{match.group(1)}() belongs to server/jobs"


# --- style

INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ud800-\udfff]")


def rule_style(tree):
    for path, text in tree.items():
        if not text:
            continue
        if not text.endswith("\n"):
            yield path, text.count("\n") + 1, "no newline at the end"
        elif text.endswith("\n\n"):
            yield path, text.count("\n"), "blank line at the end"
        code = path.endswith(CODE) or is_script(path, text)
        for number, line in enumerate(text.split("\n"), 1):
            if "\t" in line:
                yield path, number, "tab"
            if line != line.rstrip():
                yield path, number, "blanks at the end of the line"
            found = INVISIBLE.search(line.replace("\t", ""))
            if found:
                yield path, number, f"invisible character U+{ord(found.group(0)):04X} or bytes that are no UTF-8"
            if code and len(line) > MAX_COLUMNS:
                yield path, number, f"{len(line)} columns, at most {MAX_COLUMNS}"


BANNED = re.compile(r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|atoi|atol|atof|rand|srand|gets|alloca|tmpnam|"
                    r"mktemp|scanf)\s*\(")


def rule_banned(tree):
    for path, text in tree.items():
        if path.endswith((".c", ".h", ".h.in")):
            for match in BANNED.finditer(bare(text)):
                yield path, line_of(text, match.start()), f"{match.group(1)}() is banned"


ALLOCATION = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|strdup|strndup|asprintf)\s*\(")


def rule_allocation(tree):
    for path, text in tree.items():
        if path.endswith((".c", ".h")) and path.startswith(("compute/", "server/")) and \
                path not in ("compute/base/fault.c", "compute/base/fault.h", "server/embed.c"):
            for match in ALLOCATION.finditer(bare(text)):
                yield path, line_of(text, match.start()), f"{match.group(1)}() cannot be made to fail: use base/fault.h"


ENDLESS = re.compile(r"\b(?:vk)?(?:Wait(?:ForFences|Semaphores)|AcquireNextImage\w*)\s*\(([^;]*)\)\s*[;)]")


def rule_endless_wait(tree):
    for path, text in tree.items():
        if path.endswith((".c", ".h")):
            for match in ENDLESS.finditer(bare(text)):
                if re.search(r"UINT64_MAX|~0ULL|~0UL\b|~\(uint64_t\)\s*0", match.group(1)):
                    yield path, line_of(text, match.start()), "a wait without an end: a lost device would hang it"


UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b|\bnot (?:yet )?impl" r"emented\b|\bunimpl"
                        r"emented\b|\bst" r"ubbed\b", re.I)
MACHINE = re.compile(r"(?<![\w.}~*])/(?:wo" r"rk|ro" r"ot|ho" r"me)/\w|\.\./sha" r"red\b")


def rule_unfinished(tree):
    for path, text in tree.items():
        for match in UNFINISHED.finditer(text):
            if match.group(1) and not match.group(1).isupper():
                continue  # reward hacking is a word of the trade
            yield path, line_of(text, match.start()), f"'{match.group(0)}' marks unfinished work"


def rule_machine_paths(tree):
    for path, text in tree.items():
        for match in MACHINE.finditer(text):
            yield path, line_of(text, match.start()), f"'{match.group(0)}' names a place of one machine"


def rule_shader_header(tree):
    for path, text in tree.items():
        if not path.endswith(".comp"):
            continue
        comment = []
        for line in text.splitlines():
            if not line.startswith("//"):
                break
            comment.append(line)
        comment = "\n".join(comment)
        for word in ("Args:", "Dispatch:", "Sum:"):
            if word not in comment:
                yield path, 1, f"the first comment does not say '{word}'"


PROTOTYPE = re.compile(r"^[A-Za-z_][\w\s*]*?\b(\w+)\s*\([^;{}]*\)\s*;", re.M)


# What the conventions fix the meaning of needs no words of its own (NULL is fine for the first three).
VERBS = ("_destroy", "_close", "_finish", "_count", "_size", "_exists")
SHORT_HEADER = 40  # lines: the comment at its head documents all of it


def top_level(text):
    """Header text with everything inside braces blanked out (comments stay)."""
    out, depth, skeleton = [], 0, bare(text)
    for raw, plain in zip(text, skeleton):
        if plain == "}":
            depth -= 1
        out.append(raw if depth <= 0 or raw == "\n" else " ")
        if plain == "{":
            depth += 1
    return "".join(out)


def rule_documented(tree):
    for path, text in tree.items():
        if not path.endswith(".h") or not path.startswith(("compute/", "server/")) or "internal" in path or \
                path.endswith("_inside.h"):
            continue
        if text.count("\n") <= SHORT_HEADER and text.startswith("//"):
            continue
        flat = top_level(text)
        lines = flat.split("\n")
        for match in PROTOTYPE.finditer(re.sub(r"^#.*$", blank, bare(flat), flags=re.M)):
            first = match.group(0).lstrip()
            if first.startswith(("typedef", "static", "return", "extern const")) or match.group(1).endswith(VERBS):
                continue
            start, end = line_of(flat, match.start()), line_of(flat, match.end())
            if any("//" in lines[i - 1] for i in range(start, end + 1)):
                continue
            above = start - 2
            while above >= 0 and lines[above].strip() and not lines[above].lstrip().startswith("//"):
                above -= 1
            if above < 0 or not lines[above].strip():
                yield path, start, f"{match.group(1)}() has no comment"


# --- documents that a command can check

ROUTE = re.compile(r'\{\s*"(GET|POST|PUT|PATCH|DELETE)"\s*,\s*"(/[^"]*)"')
ROUTE_NAMED = re.compile(r'\{\s*\.method\s*=\s*"(\w+)"\s*,\s*\.pattern\s*=\s*"(/[^"]*)"')


def routes_of(tree):
    found = {}
    for path, text in tree.items():
        if path.startswith("server/routes/") and path.endswith(".c"):
            for pattern in (ROUTE, ROUTE_NAMED):
                for match in pattern.finditer(text):
                    found[match.group(1), match.group(2)] = path, line_of(text, match.start())
    return found


def openapi_paths(text):
    found, inside, current = {}, False, None
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"paths:\s*$", line):
            inside = True
        elif re.match(r"\S", line) and not line.startswith("#"):
            inside = False
        elif inside:
            path = re.match(r"""  ["']?(/[^"':]*)["']?:\s*$""", line)
            verb = re.match(r"    (get|post|put|patch|delete):", line)
            if path:
                current = path.group(1)
            elif verb and current:
                found[verb.group(1).upper(), current] = number
    return found


def rule_openapi(tree):
    spec = "openapi/openapi.yaml"
    if spec not in tree:
        yield spec, 1, "is missing"
        return
    routes, described = routes_of(tree), openapi_paths(tree[spec])
    for key in sorted(set(routes) - set(described)):
        yield routes[key][0], routes[key][1], f"{key[0]} {key[1]} is not in {spec}"
    for key in sorted(set(described) - set(routes)):
        yield spec, described[key], f"{key[0]} {key[1]} has no route"
    if not routes:
        yield "server/routes", 1, "no route found"


def rule_dependencies(tree):
    doc, page = "docs/dependencies.md", tree.get("docs/dependencies.md", "")
    if not page:
        yield doc, 1, "is missing"
        return
    for match in re.finditer(r"dependency\('([^']+)'", tree.get("meson.build", "")):
        if f"`{match.group(1)}`" not in page:
            yield doc, 1, f"says nothing about `{match.group(1)}` (meson.build)"
    setup = tree.get("tools/setup", "")
    for block in re.findall(r"_packages=\(([^)]*)\)", setup):
        for package in block.split():
            if f"`{package}`" not in page:
                yield doc, 1, f"says nothing about `{package}` (tools/setup)"


LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
QUOTED_PATH = re.compile(r"`((?:tools|tests|docs|compute|server|shaders|web|openapi)/[\w./-]+)`")


def rule_links(tree):
    known = set(tree)
    for path in list(tree):
        parts = path.split("/")
        known.update("/".join(parts[:i]) for i in range(1, len(parts)))
    known.update(("tests/data", "tests/fuzz/corpus", "web/vendor"))
    for path, text in tree.items():
        if not path.endswith(".md"):
            continue
        for match in LINK.finditer(text):
            target = match.group(1)
            if re.match(r"[a-z]+:", target):
                continue
            full = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if full not in known and not full.startswith(NOT_OURS) and not os.path.exists(os.path.join(ROOT, full)):
                yield path, line_of(text, match.start()), f"the link to {target} leads nowhere"
        for match in QUOTED_PATH.finditer(text):
            target = match.group(1).rstrip("/.")
            if target not in known and not target.startswith(NOT_OURS):
                yield path, line_of(text, match.start()), f"there is no {target}"


def rule_readmes(tree):
    tops = sorted({p.split("/")[0] for p in tree if "/" in p and not p.startswith(".")})
    for top in tops:
        if f"{top}/README.md" not in tree:
            yield f"{top}/README.md", 1, "is missing: what lives here, its layer, how to add to it"
    for path in tree:
        parts = path.split("/")
        if len(parts) >= 3 and parts[0] in ("compute", "server"):
            page = tree.get(f"{parts[0]}/README.md", "")
            if page and f"`{parts[1]}`" not in page:
                yield f"{parts[0]}/README.md", 1, f"says nothing about `{parts[1]}`"


COMMAND = re.compile(r"(?:^|[`\s])(?:build/)?vireo ([a-z]+)\b", re.M)


def rule_commands(tree):
    table = tree.get("server/main.c", "")
    known = set(re.findall(r'\{\s*"([a-z]+)"\s*,', table)) | set(re.findall(r'\.name\s*=\s*"([a-z]+)"', table))
    if not known:
        yield "server/main.c", 1, "no command table found"
        return
    page = tree.get("README.md", "")
    for block in re.finditer(r"```.*?```|`[^`\n]+`", page, re.S):
        for match in COMMAND.finditer(block.group(0).strip("`")):
            if match.group(1) not in known:
                yield "README.md", line_of(page, block.start()), f"there is no command 'vireo {match.group(1)}'"


RULES = {name[5:]: f for name, f in list(globals().items()) if name.startswith("rule_")}


# --- what is only looked at

def stats(tree):
    functions, files = [], []
    for path, text in tree.items():
        if not path.endswith((".c", ".h")):
            continue
        lines = text.split("\n")
        files.append((len(lines) - 1, path))
        start = None
        for number, line in enumerate(lines, 1):
            if line.startswith("{"):
                start = number
            elif line.startswith("}") and start:
                functions.append((number - start - 1, path, start))
                start = None
    if not files:
        return
    files.sort(reverse=True)
    functions.sort(reverse=True)
    for length, path in files:
        if length > MAX_FILE:
            print(f"  long file      {length:5d} lines  {path}")
    for length, path, start in functions:
        if length > MAX_FUNCTION:
            print(f"  long function  {length:5d} lines  {path}:{start}")
    ours = [f for f in files if not f[1].startswith("tests/")]
    checks = sum(n for n, p in files if p.startswith("tests/"))
    middle = sorted(n for n, _ in ours)[len(ours) // 2] if ours else 0
    inner = sorted(f[0] for f in functions if not f[1].startswith("tests/")) or [0]
    wide = sum(len(line) > AIM_COLUMNS for p, t in tree.items() if p.endswith(CODE) for line in t.split("\n"))
    print(f"  {wide} lines over {AIM_COLUMNS} columns (over {MAX_COLUMNS} fails)")
    print(f"  {len(ours)} product files, median {middle} lines; {len(inner)} functions, median "
          f"{inner[len(inner) // 2]}, p90 {inner[len(inner) * 9 // 10]} lines; tests : source = "
          f"{checks / max(1, sum(n for n, _ in ours)):.2f}")


def run_rules(tree):
    failed = 0
    for name, rule in RULES.items():
        found = list(rule(tree))
        failed += bool(found)
        print(f"{'FAIL' if found else 'ok  '} lint {name}")
        for path, line, message in found[:40]:
            print(f"  {path}:{line}: {message}")
        if len(found) > 40:
            print(f"  and {len(found) - 40} more")
    return failed


def main(arguments):
    known = {"--self-test", "--stats"}
    if set(arguments) - known:
        print(f"lint.py: unknown option (known: {' '.join(sorted(known))})", file=sys.stderr)
        return 64
    if "--self-test" in arguments:
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        import self_test
        return self_test.run(RULES)
    tree = load_tree()
    if "--stats" in arguments:
        stats(tree)
        return 0
    return 1 if run_rules(tree) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
