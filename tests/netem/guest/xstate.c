/* Lets a User-Mode Linux of before 6.13 run on CPUs with AMX (Sapphire Rapids and later). Loaded by LD_PRELOAD.
 *
 * Such a kernel keeps a guest process's extended registers in 2696 bytes, which hold everything up to AVX-512 and PKRU.
 * With AMX the host's layout is 11008 bytes, and PTRACE_SETREGSET takes the whole layout or nothing (EFAULT, "ptrace set
 * fp regs failed, errno = 14"): the guest's first process dies. Here the rest is filled up with zeros. The guest never
 * uses the tile registers: a program must ask the kernel for them first (ARCH_REQ_XCOMP_PERM), which the guest's refuses.
 *
 * Can go when Debian's user-mode-linux is 6.13 or later, which asks the host for the size.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CAPACITY = 1 << 16, STATE_BITMAP = 512 };
static const uint64_t TILES = UINT64_C(3) << 17;

/* One buffer: the guest's kernel is a single thread that never switches in the middle of this. */
static char layout[CAPACITY] __attribute__((aligned(64)));
static size_t host_bytes;

static long set_extended_state(pid_t pid, const struct iovec *given)
{
    struct iovec whole = {layout, CAPACITY};

    if (host_bytes == 0) {
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
            return -1;
        host_bytes = whole.iov_len;
        memset(layout, 0, sizeof layout);
    }
    size_t known = given->iov_len < host_bytes ? given->iov_len : host_bytes;
    memcpy(layout, given->iov_base, known);
    if (known < host_bytes)
        *(uint64_t *)(layout + STATE_BITMAP) &= ~TILES;
    whole.iov_len = host_bytes;
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

/* The C library's ptrace, but for that one request. */
long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE)
        return set_extended_state(pid, data);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word;
        long failed = syscall(SYS_ptrace, request, pid, address, &word);
        return failed < 0 ? failed : word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
