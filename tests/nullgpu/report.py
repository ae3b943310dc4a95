#!/usr/bin/env python3
# What AMD's compiler makes of the GEMM and attention kernels, and what fraction of a GPU's peak that could reach at best.
# tools/gpu-report calls it:
#   tools/gpu-report [BUILD]            writes docs/gpu-report.md and tests/nullgpu/predicted.json
#   tools/gpu-report --check [BUILD]    fails where a prediction fell by more than 0.03 below that file or below its floor
# Needs Mesa 25's Vulkan drivers and BUILD/tests/nullgpu/nullgpu (BUILD: build). Exit 77: no such driver. No GPU, and
# nothing is run on one: every figure is predicted.
import json, os, re, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REPORT, PREDICTED = os.path.join(ROOT, "docs/gpu-report.md"), os.path.join(ROOT, "tests/nullgpu/predicted.json")
FAMILIES = ["navi21", "navi31", "gfx1151"]
KERNELS = ["gemm_tile_nt_f32_f32", "gemm_tile_nt_f32_bf16", "gemm_tile_nn_f32_f32", "gemm_tile_tn_f32_f32",
           "gemm_coopmat_nt_f16", "gemm_coopmat_nn_f16", "gemm_coopmat_tn_f16",
           "attention_tile_fwd", "attention_tile_bwd_query", "attention_tile_bwd_key"]
CHECKED = ("gemm_tile", "gemm_coopmat", "attention_tile") # the predictions kept
DROP = 0.03
# What the largest tile must reach, whatever the file says.
FLOORS = {("navi21", "gemm_tile", "128x128"): 0.85, ("navi31", "gemm_tile", "128x128"): 0.70,
          ("navi31", "gemm_coopmat", "128x128"): 0.75, ("gfx1151", "gemm_coopmat", "128x128"): 0.75}

# Model: clocks of one wave32 for a turn of the hot loop. The chips' numbers are recalled from public descriptions.
MATRIX_PEAK, MATRIX = {"navi31": 128, "gfx1151": 128}, re.compile(r"v_wmma_f32_16x16x16_f16$") # 4096 of them in 32 clocks
MAC_PEAK = {"navi21": 32, "navi31": 64, "gfx1151": 64}   # f32 multiply-adds a clock and SIMD
ROWS = {"navi21": 1024, "navi31": 1536, "gfx1151": 1536} # vector registers of a SIMD, wave32
STEP = {"navi21": 8 * 2, "navi31": 24, "gfx1151": 24}    # they are handed out in steps of
WAVES, LDS_BYTES, SIMDS = 16, 128 << 10, 4               # of a workgroup processor
LDS_RATE, MEMORY_RATE, LATENCY = 64, 32, 600             # bytes a clock and SIMD; clocks until a load is back

MULTIPLY_ADD = re.compile(r"v_(dual_)?(fma|fmac|mac|mad|fmaak|fmamk|fma_mix)_?(legacy_)?(f32|f16)?$")
SLOW = re.compile(r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_|v_mul_(lo|hi)_|v_mad_[ui]64")


def blocks_of(path):
    """[(label, [instruction, ...], [branch target, ...])]; an instruction is its opcodes (two where issued in pairs)
    and the number a wait for memory leaves outstanding, or None."""
    blocks = [("start", [], [])]
    for line in open(path, errors="replace"):
        line = line.split(";")[0].replace("\0", "").strip()
        label = re.match(r"(BB\d+)\b", line)
        if label:
            blocks.append((label.group(1), [], []))
            continue
        opcodes = []
        for part in line.split("::"):
            part = part.split(" = ", 1)[1] if re.match(r"\s*[vsp]\d*:? ?%", part) and " = " in part else part
            found = re.search(r"(?:^|\s)((?:v|s|ds|global|buffer|flat|scratch)_[a-z0-9_]+)", part)
            if found:
                opcodes.append(re.sub(r"_(e32|e64|dpp|sdwa)$", "", found.group(1)))
        if not opcodes:
            continue
        wait = re.search(r"vmcnt\((\d+)\)", line) if opcodes[0].startswith("s_wait") else None
        blocks[-1][1].append((opcodes, int(wait.group(1)) if wait else None))
        if "branch" in opcodes[0]:
            blocks[-1][2].extend(re.findall(r"BB\d+", line))
    return blocks


def memory_bytes(opcode):
    several = 2 if re.search(r"2addr|read2|write2|load_2|store_2", opcode) else 1
    wide, words = re.search(r"_b(\d+)", opcode), re.search(r"dwordx(\d)", opcode)
    return several * (4 * int(words.group(1)) if words else max(4, int(wide.group(1)) // 8) if wide else 4)


def is_load(opcode):
    return bool(re.match(r"(global|buffer|flat|scratch)_load", opcode))


def valu_clocks(opcodes):
    o = opcodes[0]
    return 0 if not o.startswith("v_") else 32 if MATRIX.match(o) else 4 if SLOW.match(o) else 1


def hot_loop(blocks):
    """The instructions of the outermost loop with most multiply-adds; inner loops count once."""
    place = {b[0]: i for i, b in enumerate(blocks)}
    loops = {}
    for i, b in enumerate(blocks):
        for target in b[2]:
            if place.get(target, i + 1) <= i:
                loops[place[target]] = max(i, loops.get(place[target], 0))
    outer = [(a, b) for a, b in loops.items() if not any(x <= a and b <= y and (x, y) != (a, b) for x, y in loops.items())]
    bodies = [[x for block in blocks[a:b + 1] for x in block[1]] for a, b in outer]
    return max(bodies, key=lambda body: sum(bool(MULTIPLY_ADD.match(o) or MATRIX.match(o)) for x in body for o in x[0]), default=[])


def exposed_latency(loop):
    """Clocks that a loop's first load is waited for: LATENCY less the arithmetic between it and the wait."""
    begun, issued, first = None, 0, 0
    for opcodes, wait in loop * 3:
        if is_load(opcodes[0]):
            issued += 1
            if begun is None:
                begun, first = 0, issued
        elif begun is not None and wait is not None and issued - wait >= first:
            return max(0, LATENCY - begun)
        elif begun is not None:
            begun += valu_clocks(opcodes)
    return 0


def waves_of(row):
    family, waves = row["family"], -(-row["invocations"] // row["subgroup"])
    registers = -(-max(1, row["vgprs"]) // STEP[family]) * STEP[family]
    groups = min(WAVES, ROWS[family] // registers) * SIMDS // waves
    if row["lds"]:
        groups = min(groups, LDS_BYTES // row["lds"])
    return groups * waves / SIMDS


def predict(row):
    loop = hot_loop(blocks_of(row["assembly"]))
    real = [x[0] for x in loop if not re.match(r"s_(wait|delay|nop|clause)", x[0][0])]
    arithmetic = [x for x in real if any(MULTIPLY_ADD.match(o) or MATRIX.match(o) for o in x)]
    multiply_adds = 32 * sum(bool(MULTIPLY_ADD.match(o)) for x in real for o in x)
    matrices = sum(bool(MATRIX.match(x[0])) for x in real)
    ideal = 4096 * matrices / MATRIX_PEAK[row["family"]] if matrices else multiply_adds / MAC_PEAK[row["family"]]
    units = {"valu": sum(valu_clocks(x) for x in real),
             "lds": sum(32 * memory_bytes(x[0]) for x in real if x[0].startswith("ds_") and "perm" not in x[0]) / LDS_RATE,
             "memory": sum(32 * memory_bytes(x[0]) for x in real if re.match("(global|buffer|flat|scratch)_", x[0])) / MEMORY_RATE}
    limit = max(units, key=units.get)
    top, waves = units[limit], waves_of(row)
    rest = sum(units.values()) - top + exposed_latency(loop)
    row.update(waves=waves, share=len(arithmetic) / max(1, len(real)), limit=limit, loop=len(real),
               f=round(ideal * min(1, waves) / max(1e-9, top + rest / max(1, waves)), 3))
    return row


def measure(build, kernels):
    program, rows = os.path.join(build, "tests/nullgpu/nullgpu"), []
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            run = subprocess.run([program, "--isa", folder, family, *kernels], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
            if run.returncode != 0:
                print(run.stdout.strip())
                sys.exit(run.returncode)
            rows += [predict(json.loads(line)) for line in run.stdout.splitlines()]
    return rows


def name_of(row):
    v = row["variant"].split(" ")[1].split(",") if " " in row["variant"] else []
    if row["kernel"].startswith(("gemm_tile", "gemm_coopmat")):
        return "%s %sx%s" % (row["kernel"], v[2], v[3])
    return "%s D=%s%s" % (row["kernel"], v[0], " bf16" if v[3] == "1" else "")


def below_floor(now):
    """One line for each prediction that is below its floor, and for each floor that nothing is held against."""
    lines = []
    for (family, start, tile), floor in FLOORS.items():
        held = {k: f for k, f in now.items() if k.startswith(family + " " + start) and k.endswith(" " + tile)}
        lines += ["%s: predicted fraction of peak %.3f, floor %.2f" % (k, f, floor) for k, f in held.items() if f < floor]
        if not held:
            lines.append("%s %s %s: no prediction, floor %.2f" % (family, start, tile, floor))
    return lines


def write_report(rows):
    with open(REPORT, "w") as out:
        out.write("""# GPUs that are not here: a prediction

**Every figure on this page is predicted, not run.** `tools/gpu-report` wrote it: Mesa's RADV compiles the kernels for AMD
GPUs that are not in the machine, and a model of the chip reads the hot loop of the result. Registers, spills, shared
memory and code size are the compiler's own and exact. f, the fraction of the chip's fp32 peak, is an upper bound: bank
conflicts, caches, memory bandwidth, clocks, barriers and edges are left out, the clocks of the model are recalled from
public descriptions, and real speed may be half of f. Take differences below 0.05 as none.

`tests/nullgpu` compiles every kernel for 20 families and fails on a spill; `tools/gpu-report --check` fails when an f falls
by more than 0.03, or that of a 128x128 product below its floor: gemm_tile 0.85 on navi21 and 0.70 on navi31, gemm_coopmat
0.75. share: multiply-add instructions of all in the hot loop; W: waves a SIMD; limit: the busiest unit.

gemm_coopmat is counted against the peak of the matrix units with f32 sums, everything else against that of fp32. A turn of an
attention kernel's loop is a block of keys (pairs); loops that load it are counted once, so that f is no more than a marker.
""")
        for family in FAMILIES:
            out.write("\n## %s, wave32 (predicted, not run)\n\n" % family)
            out.write("| kernel | VGPRs | spilled | scratch bytes | shared bytes | W | code bytes | loop instructions "
                      "| share | limit | f |\n")
            out.write("|" + "---|" * 11 + "\n")
            for r in rows:
                if r["family"] == family:
                    out.write("| %s | %d | %d | %d | %d | %.3g | %d | %d | %.2f | %s | %.2f |\n" % (
                        name_of(r), r["vgprs"], r["spilled"], r["scratch"], r["lds"], r["waves"], r["code"], r["loop"], r["share"],
                        r["limit"], r["f"]))


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print("usage: tools/gpu-report [--check] [BUILD]", file=sys.stderr)
        return 64
    check = "--check" in sys.argv
    rows = measure(arguments[0] if arguments else os.path.join(ROOT, "build"),
                   [k for k in KERNELS if not check or k.startswith(CHECKED)])
    now = {r["family"] + " " + name_of(r): r["f"] for r in rows if r["kernel"].startswith(CHECKED)}
    low = below_floor(now)
    for line in low:
        print(line)
    if not check:
        write_report(rows)
        with open(PREDICTED, "w") as out:
            json.dump(now, out, indent=1, sort_keys=True)
            out.write("\n")
        return 1 if low else 0
    before, bad = json.load(open(PREDICTED)), 0
    for key, f in before.items():
        if key not in now or now[key] < f - DROP:
            bad += 1
            print("%s: predicted fraction of peak %s, was %.3f" % (key, "%.3f" % now[key] if key in now else "gone", f))
    print("%d predictions compared, %d fell by more than %.2f, %d below their floor" % (len(before), bad, DROP, len(low)))
    return 1 if bad or low else 0


sys.exit(main())
