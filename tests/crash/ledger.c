/* Starts a program and writes down what it syncs: for each fsync and fdatasync that succeeds, the inode, when that was
 * made, and how long the file was when the call began. What lies behind that length a power cut may take.
 *
 *   ledger OUT PROGRAM ARGUMENT...
 *
 *   p PID                     the program
 *   s INODE BORN_NS LENGTH    synced up to there
 *   a INODE BORN_NS           opened with O_SYNC or O_DSYNC: whatever was written is synced
 *
 * A filter in the kernel stops the program at these calls alone; all others run as they always do. It sees threads and
 * children, and programs that call the kernel by themselves. It does not see what goes through io_uring. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Calls under way, one a thread. */
#define CALLS 1024
struct call {
    pid_t thread;
    int is_open;
    unsigned long long inode, born_ns, length;
};
static struct call calls[CALLS];
static FILE *out;

static void fail(const char *what)
{
    fprintf(stderr, "ledger: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* Inode, birth and length of what a thread of the program has open. */
static int look(pid_t thread, int fd, struct call *call)
{
    char path[64];
    struct statx found;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", thread, fd);
    if (statx(AT_FDCWD, path, 0, STATX_SIZE | STATX_INO | STATX_BTIME, &found) != 0)
        return -1;
    call->inode = found.stx_ino;
    call->born_ns = found.stx_btime.tv_sec * 1000000000ULL + found.stx_btime.tv_nsec;
    call->length = found.stx_size;
    return 0;
}

static struct call *call_of(pid_t thread)
{
    struct call *empty = NULL;
    for (int at = 0; at < CALLS; at++) {
        if (calls[at].thread == thread)
            return &calls[at];
        if (calls[at].thread == 0 && empty == NULL)
            empty = &calls[at];
    }
    return empty;
}

/* Whether the thread's call is one to see the end of. */
static int begins(pid_t thread)
{
    struct __ptrace_syscall_info info;
    struct call *call = call_of(thread);
    if (call == NULL || ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0)
        return 0;
    call->is_open = info.seccomp.nr == SYS_openat;
    if (!call->is_open && look(thread, (int)info.seccomp.args[0], call) != 0)
        return 0;
    call->thread = thread;
    return 1;
}

static void ends(pid_t thread)
{
    struct __ptrace_syscall_info info;
    struct call *call = call_of(thread);
    if (call == NULL || call->thread != thread)
        return;
    call->thread = 0;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0 || info.exit.is_error)
        return;
    if (!call->is_open)
        fprintf(out, "s %llu %llu %llu\n", call->inode, call->born_ns, call->length);
    else if (look(thread, (int)info.exit.rval, call) == 0)
        fprintf(out, "a %llu %llu\n", call->inode, call->born_ns);
    fflush(out);
}

static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_DSYNC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        fail("a filter for system calls");
}

int main(int count, char **words)
{
    if (count < 3 || (out = fopen(words[1], "a")) == NULL)
        fail("usage: ledger OUT PROGRAM ARGUMENT...");
    pid_t program = fork();
    if (program == 0) {
        fclose(out);
        raise(SIGSTOP);
        filter();
        execvp(words[2], words + 2);
        fail(words[2]);
    }
    long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    int status;
    if (program < 0 || waitpid(program, &status, WUNTRACED) != program)
        fail("fork");
    if (ptrace(PTRACE_SEIZE, program, 0, options) != 0)
        fail("ptrace");
    fprintf(out, "p %d\n", program);
    fflush(out);
    kill(program, SIGCONT);
    for (;;) {
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0)
            return 0;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread == program)
                return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16, how = PTRACE_CONT;
        if (event == PTRACE_EVENT_SECCOMP) {
            how = begins(thread) ? PTRACE_SYSCALL : PTRACE_CONT;
            signal = 0;
        } else if (signal == (SIGTRAP | 0x80)) {
            ends(thread);
            signal = 0;
        } else if (event == PTRACE_EVENT_STOP) {
            /* A new thread, or the whole program was stopped, which goes on. */
            signal = 0;
        } else if (event != 0) {
            signal = 0;
        }
        ptrace(how, thread, 0, signal);
    }
}
