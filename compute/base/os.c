// PR_SET_*, seccomp and /proc are Linux's; what is not Linux takes the portable branch of each function.
#include "compute/base/os.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __linux__
#include <seccomp.h>
#include <sys/prctl.h>
#endif
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

uint64_t os_peak_rss(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
#ifdef __APPLE__
    return (uint64_t)usage.ru_maxrss;
#else
    return (uint64_t)usage.ru_maxrss * 1024;
#endif
}

uint64_t os_memory_bytes(void)
{
#ifdef _SC_PHYS_PAGES
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
#else
    return 0;
#endif
}

void os_die_with_parent(void)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}

void os_no_core_dumps(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 0);
#endif
}

bool os_limit_memory(uint64_t bytes, struct vireo_error *err)
{
    struct rlimit limit = {(rlim_t)bytes, (rlim_t)bytes};
    return setrlimit(RLIMIT_AS, &limit) == 0 || vireo_fail_errno(err, "cannot limit memory");
}

bool os_limit_cpu(uint64_t seconds, struct vireo_error *err)
{
    struct rusage used;
    struct rlimit limit;
    if (getrusage(RUSAGE_SELF, &used) != 0)
        return vireo_fail_errno(err, "cannot limit processor time");
    limit.rlim_cur = limit.rlim_max = (rlim_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec + 1) + (rlim_t)seconds;
    return setrlimit(RLIMIT_CPU, &limit) == 0 || vireo_fail_errno(err, "cannot limit processor time");
}

bool os_sandbox_compute_only(struct vireo_error *err)
{
#ifdef __linux__
    static const char *const allowed[] = {
        "read",     "write",      "readv",          "writev",       "recvmsg",       "sendmsg",       "recvfrom",
        "sendto",   "poll",       "ppoll",          "brk",          "mmap",          "munmap",        "mremap",
        "madvise",  "mprotect",   "futex",          "clock_gettime", "gettimeofday", "exit",          "exit_group",
        "close",    "lseek",      "fstat",          "newfstatat",   "rt_sigreturn",  "rt_sigprocmask", "rt_sigaction",
        "getpid",   "gettid",     "tgkill",         "sched_yield",  "nanosleep",     "clock_nanosleep", "getrandom",
        "pread64",  "fcntl",      "sigaltstack",    "restart_syscall", "sched_getaffinity", "rseq", "set_robust_list",
    };
    static const char *const refused[] = {"open", "openat", "access", "faccessat", "faccessat2", "stat", "lstat", "statx",
                                          "readlink", "readlinkat", "ioctl", "getcwd"};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return vireo_fail(err, VIREO_NO_MEMORY, "cannot set up the sandbox");
    // Threads that read frames for us are in it too.
    bool done = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) == 0;
    for (size_t i = 0; done && i < sizeof refused / sizeof refused[0]; i++) {
        int call = seccomp_syscall_resolve_name(refused[i]);
        done = call == __NR_SCMP_ERROR || seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), call, 0) == 0;
    }
    for (size_t i = 0; done && i < sizeof allowed / sizeof allowed[0]; i++) {
        int call = seccomp_syscall_resolve_name(allowed[i]);
        done = call == __NR_SCMP_ERROR || seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 0) == 0;
    }
    done = done && seccomp_load(filter) == 0;
    seccomp_release(filter);
    return done || vireo_fail(err, VIREO_INTERNAL, "cannot enter the sandbox");
#else
    (void)err;
    return true;
#endif
}

bool os_executable_path(char *buffer, uint64_t size, struct vireo_error *err)
{
#ifdef __APPLE__
    uint32_t length = (uint32_t)size;
    return _NSGetExecutablePath(buffer, &length) == 0 || vireo_fail(err, VIREO_INTERNAL, "cannot find own executable");
#else
    ssize_t length = readlink("/proc/self/exe", buffer, (size_t)size - 1);
    if (length <= 0)
        return vireo_fail_errno(err, "cannot find own executable");
    buffer[length] = 0;
    return true;
#endif
}
