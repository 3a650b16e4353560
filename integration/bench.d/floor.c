/* floor: what a container costs before any runtime does a thing: one clone with the namespaces of
 * `runc spec`, a directory in every v1 hierarchy (or the one of v2), a bind mount, pivot_root, exec.
 *
 *   floor ROOTFS PROGRAM [ARG…]
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup"
#define V2_MAGIC 0x63677270
#define LIMIT 32

static char dirs[LIMIT][256];
static int count;

static void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void add(const char *parent) {
    if (count == LIMIT) return;
    snprintf(dirs[count], sizeof dirs[count], "%s/rrun-floor-%d", parent, getpid());
    if (mkdir(dirs[count], 0755) == 0) count++;
}

static int is_v2(const char *path) {
    struct statfs s;
    return statfs(path, &s) == 0 && s.f_type == V2_MAGIC;
}

/* Every v1 hierarchy; cpuset takes its parent's values. */
static void make_cgroups(void) {
    if (is_v2(CGROUP)) return add(CGROUP);
    DIR *all = opendir(CGROUP);
    if (!all) return;
    for (struct dirent *e; (e = readdir(all));) {
        char path[300];
        if (e->d_name[0] == '.' || e->d_type != DT_DIR) continue;
        snprintf(path, sizeof path, CGROUP "/%s", e->d_name);
        if (is_v2(path)) continue;
        add(path);
        if (strcmp(e->d_name, "cpuset") != 0) continue;
        const char *files[] = {"cpuset.cpus", "cpuset.mems"};
        for (int i = 0; i < 2; i++) {
            char from[600], to[600], value[4096];
            snprintf(from, sizeof from, "%s/%s", path, files[i]);
            snprintf(to, sizeof to, "%s/%s", dirs[count - 1], files[i]);
            int in = open(from, O_RDONLY), out = open(to, O_WRONLY);
            ssize_t n = read(in, value, sizeof value);
            if (n > 0 && write(out, value, n) < 0) die(to);
            close(in);
            close(out);
        }
    }
    closedir(all);
}

static void join(void) {
    for (int i = 0; i < count; i++) {
        char path[sizeof dirs + 8];
        snprintf(path, sizeof path, "%s/tasks", dirs[i]);
        int fd = open(path, O_WRONLY);
        if (fd < 0) continue; /* v2: the clone has put us there. */
        if (write(fd, "0", 1) != 1) die(path);
        close(fd);
    }
}

static void child(const char *rootfs, char **args) {
    join();
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("private");
    if (mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL)) die("bind");
    if (chdir(rootfs)) die("chdir");
    if (syscall(SYS_pivot_root, ".", ".")) die("pivot_root");
    if (umount2(".", MNT_DETACH) || chdir("/")) die("umount");
    char *env[] = {"PATH=/bin:/usr/bin", NULL};
    execve(args[0], args, env);
    die(args[0]);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: floor ROOTFS PROGRAM [ARG...]\n"), 2;
    make_cgroups();
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET,
        .exit_signal = SIGCHLD,
    };
    if (count == 1 && is_v2(dirs[0])) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = open(dirs[0], O_PATH | O_DIRECTORY);
    }
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) die("clone3");
    if (pid == 0) child(argv[1], argv + 2);
    int status;
    if (waitpid(pid, &status, 0) < 0) die("waitpid");
    for (int i = 0; i < count; i++) rmdir(dirs[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
