"""Each rule of lint.py on a tree that breaks it and on one that does not. A rule without both is itself a failure."""

TABLE = """\
server/http:
compute/nn: compute/gpu shaders/args
compute/gpu:
compute/base:
tests: *
home microhttpd.h: server/http
libc: stdio.h
"""
MARK = "TO" "DO"
HOME = "/ho" "me/"

# rule -> (trees that must be reported, trees that must not)
CASES = {
    "layers": (
        [{"compute/gpu/a.c": '#include "compute/nn/nn.h"\n'}, {"compute/gpu/a.c": '#include "memory.h"\n'},
         {"compute/new/a.c": "\n"}, {"compute/base/a.c": '#  include "compute/gpu/a.h"\n'}],
        [{"compute/nn/a.c": '#include "compute/gpu/memory.h"\n#include "compute/base/arena.h"\n'},
         {"compute/nn/a.c": '#include "shaders/args/gemm.h"\n'}, {"tests/unit/a.c": '#include "compute/nn/nn.h"\n'}]),
    "layers_no_circle": (
        [{"tests/lint/layers.txt": "a: b\nb: c\nc: a\n"}, {"tests/lint/layers.txt": "a: b/x.h\nb: a\n"}],
        [{"tests/lint/layers.txt": "a: b c\nb: c\nc:\n"}]),
    "homes": (
        [{"server/auth/a.c": "#include <microhttpd.h>\n"}, {"server/http/a.c": "#include <zmq.h>\n"}],
        [{"server/http/a.c": "#include <microhttpd.h>\n#include <stdio.h>\n"}]),
    "processes": (
        [{"compute/train/a.c": "int f(void)\n{\n    return fork();\n}\n"}, {"server/cli/a.c": 'x = system("ls");\n'}],
        [{"server/jobs/a.c": "p = fork();\n"}, {"compute/train/a.c": "// fork() is not ours\nfork_name(2);\n"}]),
    "style": (
        [{"a.c": "int a;\n\tint b;\n"}, {"a.c": "int a; \n"}, {"a.c": "int a;"}, {"a.c": "int a;\n\n"},
         {"a.md": "zero\u200bwidth\n"}, {"a.c": "// " + 130 * "x" + "\n"}, {"a.c": "int a;\r\n"}, {"a.txt": "\udcff\n"}],
        [{"a.c": "int a;\n"}, {"a.md": 300 * "x" + "\n"}, {"a.c": "// größer als β\n"}]),
    "banned": (
        [{"a.c": "    strcpy(a, b);\n"}, {"a.c": "x = atoi (s);\n"}, {"a.c": "char *p = alloca(8);\n"},
         {"a.h": "sprintf(b, c);\n"}],
        [{"a.c": "snprintf(a, 2, b); // never sprintf(a)\n"}, {"a.c": 'say("rand()");\n'}, {"a.c": "my_rand(3);\n"}]),
    "allocation": (
        [{"compute/nn/a.c": "p = malloc(3);\n"}, {"server/http/a.c": "p = strdup(s);\n"}],
        [{"compute/nn/a.c": "p = vireo_alloc(3);\n"}, {"compute/base/fault.c": "p = malloc(3);\n"},
         {"tests/a.c": "p = malloc(3);\n"}]),
    "endless_wait": (
        [{"compute/gpu/a.c": "vk->WaitSemaphores(d, &i, UINT64_MAX);\n"},
         {"compute/gpu/a.c": "if (vkWaitForFences(d, 1, &f,\n    VK_TRUE, UINT64_MAX))\n    return;\n"}],
        [{"compute/gpu/a.c": "vk->WaitSemaphores(d, &i, 1000000);\nuint64_t x = UINT64_MAX;\n"}]),
    "unfinished": (
        [{"a.c": f"// {MARK}: later\n"}, {"a.md": "not impl" "emented\n"}],
        [{"a.c": "// all done; names like mkstemp's a.XXXXXX are fine\n"}, {"a.md": "reward hacking\n"}]),
    "machine_paths": (
        [{"a.c": f'open("{HOME}someone/x");\n'}, {"a.md": "see .." "/sha" "red/x\n"}],
        [{"a.c": 'open("%s/work/x");\n'}, {"a.md": "the home/folder\n"}]),
    "shader_header": (
        [{"shaders/a.comp": "#version 460\n"}, {"shaders/a.comp": "// y = x\n// Args: a. Dispatch: 1.\n"}],
        [{"shaders/a.comp": "// y = x\n// Args: a. Dispatch: 1. Sum: none.\n#version 460\n"}]),
    "documented": (
        [{"compute/nn/a.h": "int f(void);\n"}, {"compute/nn/a.h": "// file\n" + 40 * "\n" + "int f(void);\n"},
         {"compute/nn/a.h": 40 * "\n" + "// of g\nint g(void);\n\nint f(int a,\n    int b);\n"}],
        [{"compute/nn/a.h": "// says what\nint f(void);\nint g(void);\n"}, {"compute/nn/a.h": "int f(void); // what\n"},
         {"compute/nn/a.h": "struct a {\n    int (*f)(void);\n};\n"}]),
    "openapi": (
        [{"openapi/openapi.yaml": "paths:\n  /v1/a:\n    get:\n", "server/routes/a.c": '{"POST", "/v1/a", 1}\n'},
         {"openapi/openapi.yaml": "paths:\n", "server/routes/a.c": '{"GET", "/v1/a", 1}\n'},
         {"server/routes/a.c": '{"GET", "/v1/a", 1}\n'}],
        [{"openapi/openapi.yaml": 'paths:\n  "/v1/a/{id}":\n    get:\n      x: 1\n',
          "server/routes/a.c": '{"GET", "/v1/a/{id}", 1}\n'}]),
    "dependencies": (
        [{"meson.build": "x = dependency('foo')\n", "docs/dependencies.md": "bar\n"},
         {"tools/setup": "build_packages=(\n    libfoo\n)\n", "docs/dependencies.md": "bar\n"}, {"meson.build": "\n"}],
        [{"meson.build": "x = dependency('foo')\n", "docs/dependencies.md": "`foo`: what for\n"}]),
    "links": (
        [{"README.md": "[a](docs/none.md)\n"}, {"README.md": "see `tools/none`\n"}],
        [{"README.md": "[a](docs/a.md#x) [b](https://example.org) `docs/a.md`\n", "docs/a.md": "\n"}]),
    "readmes": (
        [{"compute/nn/a.c": "\n"}, {"compute/nn/a.c": "\n", "compute/README.md": "nothing\n"}],
        [{"compute/nn/a.c": "\n", "compute/README.md": "`nn`: ops\n", "tests/README.md": "\n"}]),
    "commands": (
        [{"server/main.c": '{"serve", f}\n', "README.md": "```\nvireo walk --fast\n```\n"}, {"README.md": "\n"}],
        [{"server/main.c": '{"serve", f}\n', "README.md": "`vireo serve`, and vireo walks on\n"}]),
}


def run(rules):
    passed = failed = 0
    for name, rule in rules.items():
        bad, good = CASES.get(name, ([], []))
        problems = [] if bad and good else ["no case of its own"]
        for trees, expected in ((bad, True), (good, False)):
            for tree in trees:
                full = {"tests/lint/layers.txt": TABLE, **tree}
                if bool(list(rule(full))) != expected:
                    problems.append(f"{'missed' if expected else 'false alarm on'} {tree}")
        passed += not problems
        failed += bool(problems)
        print(f"{'FAIL' if problems else 'ok  '} self-test {name}")
        for problem in problems:
            print("  " + problem)
    for name in CASES.keys() - rules.keys():
        failed += 1
        print(f"FAIL self-test {name}: no such rule")
    return 1 if failed else 0
