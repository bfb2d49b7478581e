/*
 * Preload for linux.uml, the user-mode Linux kernel of Debian 12 (6.1).
 *
 * It keeps the guest's floating point state in a buffer of fixed size (2696 bytes), and the host refuses
 * PTRACE_SETREGSET(NT_X86_XSTATE) of another size than its own, which is larger on hosts with AMX (11 kB).
 * Reading: read the whole state, hand back its head. Writing: read the whole state, lay the head over it, write it back.
 *
 * Compiled with -mgeneral-regs-only: this code must not itself disturb the state that it carries.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define GETREGSET 0x4204L
#define SETREGSET 0x4205L
#define X86_XSTATE 0x202L
#define PEEK_FIRST 1 /* PTRACE_PEEKTEXT */
#define PEEK_LAST 3  /* PTRACE_PEEKUSER */

static char state[65536] __attribute__((aligned(64)));

long ptrace(int request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, long), address = va_arg(arguments, long), data = va_arg(arguments, long);
    va_end(arguments);

    if ((request == GETREGSET || request == SETREGSET) && address == X86_XSTATE) {
        struct iovec *user = (struct iovec *)data, whole = { state, sizeof state };
        if (syscall(SYS_ptrace, GETREGSET, pid, address, &whole) < 0)
            return -1;
        size_t head = user->iov_len < whole.iov_len ? user->iov_len : whole.iov_len;
        if (request == GETREGSET) {
            memcpy(user->iov_base, state, head);
            user->iov_len = head;
            return 0;
        }
        memcpy(state, user->iov_base, head);
        return syscall(SYS_ptrace, SETREGSET, pid, address, &whole);
    }

    if (request >= PEEK_FIRST && request <= PEEK_LAST) { /* the system call stores the word, the C function returns it */
        long word, result = syscall(SYS_ptrace, (long)request, pid, address, &word);
        if (result == 0) {
            errno = 0;
            return word;
        }
        return result;
    }
    return syscall(SYS_ptrace, (long)request, pid, address, data);
}
