#!/usr/bin/env python3
# Translates every kernel to Metal's language with spirv-cross. No Metal compiler is here: what spirv-cross lets through
# though Metal has no such thing is looked for by name.
#   metal.py FOLDER    FOLDER: the build's, with *.spv. Exit 77: spirv-cross or spirv-opt is missing.
import glob, os, re, shutil, subprocess, sys, tempfile

# Kernels that are not for Metal: name and reason. A name that translates after all is a failure too.
EXCEPTIONS = {"gemm_coopmat_" + kind + "_" + dtype: "cooperative matrices: MoltenVK has none; these products run as gemm_tile"
              for kind in ("nt", "nn", "tn") for dtype in ("f16", "bf16")}

# Metal 2.2 has 64-bit integers, 2.3 allows them in buffers.
TRANSLATE = ["spirv-cross", "--msl", "--msl-version", "20300"]
NOT_METAL = re.compile(r"\b(double|atomicAdd|atomicMax|atomicMin|atomicExchange)\b")


def problem(path, folder):
    """None, or why the kernel does not translate."""
    frozen = os.path.join(folder, os.path.basename(path))
    # A constant that sizes an array would become a macro.
    freeze = subprocess.run(["spirv-opt", "--freeze-spec-const", "--fold-spec-const-op-composite", path, "-o", frozen],
                            capture_output=True, text=True)
    if freeze.returncode != 0:
        return "spirv-opt: " + freeze.stderr.strip()
    run = subprocess.run(TRANSLATE + [frozen], capture_output=True, text=True)
    if run.returncode != 0 or "kernel void" not in run.stdout:
        return (run.stderr or run.stdout).strip()[:300]
    found = NOT_METAL.search(run.stdout)
    return "leaves '%s' in, which Metal lacks" % found.group(1) if found else None


def main():
    if not shutil.which("spirv-cross") or not shutil.which("spirv-opt"):
        print("spirv-cross or spirv-opt is not installed")
        return 77
    paths, bad = sorted(glob.glob(os.path.join(sys.argv[1], "*.spv"))), 0
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            name, why = os.path.basename(path)[:-4], problem(path, folder)
            if (why is None) == (name in EXCEPTIONS):
                bad += 1
                print("%s: %s" % (name, why or "translates; take it off the list"))
    print("%d kernels, %d wrong" % (len(paths), bad))
    return 1 if bad or not paths else 0


sys.exit(main())
