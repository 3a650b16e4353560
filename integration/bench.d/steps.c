/* steps: executes a command instruction by instruction, and writes which of its instructions were.
 *
 *   steps EXECS FILE COMMAND [ARG…]   →   FILE: addresses in hexadecimal, appended
 *
 * Processes that it clones are followed as well. Each is let go when it executes another program:
 * with its exec number EXECS + 1, that of COMMAND itself being the first, or when COMMAND ends.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOP 0x4000000UL /* of a program at a fixed address */
#define LIMIT 64

static unsigned char seen[TOP];
static struct process { pid_t pid; int execs, gone; } processes[LIMIT];
static int count;

static struct process *find(pid_t pid, int execs) {
    for (int i = 0; i < count; i++)
        if (processes[i].pid == pid) return &processes[i];
    if (count == LIMIT) exit(3);
    processes[count] = (struct process){pid, execs, 0};
    return &processes[count++];
}

/* The signal to deliver, or -1 when the process has been let go. */
static int stopped(struct process *process, int status, int limit) {
    int signal = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_EXEC) {
        if (++process->execs <= limit) return 0;
        ptrace(PTRACE_DETACH, process->pid, 0, 0);
        return -1;
    }
    if (event) {
        unsigned long pid;
        ptrace(PTRACE_GETEVENTMSG, process->pid, 0, &pid);
        find(pid, process->execs);
        return 0;
    }
    if (signal == SIGTRAP) {
        struct user_regs_struct registers;
        if (!ptrace(PTRACE_GETREGS, process->pid, 0, &registers) && registers.rip < TOP) seen[registers.rip] = 1;
        return 0;
    }
    return signal == SIGSTOP ? 0 : signal;
}

/* Lets a process go on by itself. The trap of a step would end it: so it is stopped first. */
static void let_go(pid_t pid) {
    kill(pid, SIGSTOP);
    for (int status; waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status);) {
        if (WSTOPSIG(status) == SIGSTOP) {
            ptrace(PTRACE_DETACH, pid, 0, 0);
            return;
        }
        ptrace(PTRACE_CONT, pid, 0, 0);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: steps EXECS FILE COMMAND [ARG...]\n"), 2;
    int limit = atoi(argv[1]), status;
    pid_t first = fork();
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execvp(argv[3], argv + 3);
        _exit(127);
    }
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC);
    find(first, 1);
    ptrace(PTRACE_SINGLESTEP, first, 0, 0);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
        struct process *process = find(pid, processes[0].execs);
        if (!WIFSTOPPED(status)) {
            process->gone = 1;
            if (pid == first) break;
            continue;
        }
        int signal = stopped(process, status, limit);
        if (signal >= 0) ptrace(PTRACE_SINGLESTEP, pid, 0, signal);
        else process->gone = 1;
    }
    for (int i = 0; i < count; i++)
        if (!processes[i].gone) let_go(processes[i].pid);
    FILE *file = fopen(argv[2], "a");
    if (!file) return perror(argv[2]), 1;
    for (unsigned long address = 0; address < TOP; address++)
        if (seen[address]) fprintf(file, "%lx\n", address);
    return fclose(file) != 0;
}
