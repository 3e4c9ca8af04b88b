/* Tries to leave the sandbox in every way that it should close, and writes what came of each as a line `name=result` to $out.
   Static, and without anything but system calls where a library could be in the way. Run by the tests under sos and under Nix. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static FILE *out;

static const char *error_name(int e) {
    return strerrorname_np(e) ? strerrorname_np(e) : "?";
}

static void say(const char *name, const char *value) {
    fprintf(out, "%s=%s\n", name, value);
    fflush(out);
}

static void number(const char *name, long value) {
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    say(name, text);
}

/* The end of a call: `ok` or the name of the error. */
static void result(const char *name, long value) {
    say(name, value < 0 ? error_name(errno) : "ok");
}

static void opens(const char *name, const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    result(name, fd);
    if (fd >= 0) close(fd);
}

/* The first line of a file, or why there is none. */
static void line_of(const char *name, const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0) {
        say(name, error_name(errno));
    } else {
        text[n] = 0;
        text[strcspn(text, "\n")] = 0;
        say(name, text);
    }
    if (fd >= 0) close(fd);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a directory, sorted; at most 64. */
static void names_in(const char *name, const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        say(name, error_name(errno));
        return;
    }
    char *names[64];
    size_t count = 0;
    for (struct dirent *e; count < 64 && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) names[count++] = strdup(e->d_name);
    closedir(dir);
    qsort(names, count, sizeof *names, by_name);
    char text[8192] = "";
    for (size_t i = 0; i < count; i++) {
        strncat(text, i ? " " : "", sizeof text - strlen(text) - 1);
        strncat(text, names[i], sizeof text - strlen(text) - 1);
    }
    say(name, text);
}

static void mode_of(const char *path) {
    char name[256], text[64];
    struct stat st;
    snprintf(name, sizeof name, "mode.%s", path);
    if (lstat(path, &st) < 0) {
        say(name, error_name(errno));
        return;
    }
    snprintf(text, sizeof text, "%o %d:%d", st.st_mode, st.st_uid, st.st_gid);
    say(name, text);
}

/* Text that system calls of 32 bits can point to. */
static char *low;

static char *low_text(const char *text) {
    return strcpy(low, text);
}

static sigjmp_buf escape;

static void on_fault(int signal) {
    (void)signal;
    siglongjmp(escape, 1);
}

/* A call by the 32-bit entry. */
static long call32(long nr, long a, long b, long c, long d) {
    long value = -ENOSYS;
    if (sigsetjmp(escape, 1)) return -EFAULT;
    __asm__ volatile("int $0x80" : "=a"(value) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory", "r8", "r9", "r10", "r11");
    return (int)value;
}

static long call64(long nr, long a, long b, long c, long d) {
    long value;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(value) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return value;
}

static const char *const abis[] = {"x86_64", "i386", "x32"};

/* The same call by all three entries; 0 is a number that an entry does not have. */
static void everywhere(const char *name, long nr64, long nr32, long a, long b, long c, long d) {
    char text[256];
    for (int abi = 0; abi < 3; abi++) {
        long value;
        if (abi == 1 ? !nr32 : !nr64) continue;
        if (abi == 1)
            value = call32(nr32, a, b, c, d);
        else
            value = call64(nr64 | (abi == 2 ? 0x40000000 : 0), a, b, c, d);
        snprintf(text, sizeof text, "%s.%s", name, abis[abi]);
        say(text, value < 0 ? error_name((int)-value) : "ok");
    }
}

static void identity(char **argv) {
    char text[4096];
    struct utsname uts;
    number("id.uid", getuid());
    number("id.euid", geteuid());
    number("id.gid", getgid());
    gid_t groups[64];
    int count = getgroups(64, groups);
    strcpy(text, "");
    for (int i = 0; i < count; i++) {
        char one[16];
        /* Groups of the caller that have no name inside. */
        if (groups[i] == 65534) continue;
        snprintf(one, sizeof one, "%d ", groups[i]);
        strcat(text, one);
    }
    say("id.groups", text);
    result("id.setgroups", setgroups(0, groups));
    result("id.setuid0", setuid(0));
    result("id.setgid0", setgid(0));
    uname(&uts);
    say("id.host", uts.nodename);
    say("id.domain", uts.domainname);
    say("id.machine", uts.machine);
    mode_t mask = umask(0);
    umask(mask);
    number("id.umask", mask);
    say("id.cwd", getcwd(text, sizeof text));
    say("id.argv0", argv[0]);
    number("id.pid", getpid() < 10 ? 0 : getpid());
    number("id.session", getsid(0) == getpid());
    line_of("id.uid_map", "/proc/self/uid_map");
    line_of("id.gid_map", "/proc/self/gid_map");
    line_of("id.setgroups_file", "/proc/self/setgroups");
    line_of("id.personality", "/proc/self/personality");
    number("id.no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    number("id.seccomp", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    number("limit.core", (long)limit.rlim_cur);
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(text, sizeof text, status)) {
        text[strcspn(text, "\n")] = 0;
        if (!strncmp(text, "Cap", 3) || !strncmp(text, "SigBlk", 6) || !strncmp(text, "SigIgn", 6)) {
            char name[64];
            snprintf(name, sizeof name, "status.%.6s", text);
            say(name, text + strcspn(text, "\t") + 1);
        }
    }
    if (status) fclose(status);
    extern char **environ;
    size_t n = 0;
    while (environ[n]) n++;
    qsort(environ, n, sizeof *environ, by_name);
    for (size_t i = 0; i < n; i++) fprintf(out, "env.%s\n", environ[i]);
}

static void descriptors(void) {
    char text[256] = "";
    for (int fd = 3; fd < 1024; fd++)
        if (fd != fileno(out) && fcntl(fd, F_GETFD) >= 0) snprintf(text + strlen(text), 16, "%d ", fd);
    say("fd.inherited", text);
    number("fd.terminal0", isatty(0));
    opens("fd.tty", "/dev/tty", O_RDWR);
    char c = 'x';
    result("fd.TIOCSTI0", ioctl(0, TIOCSTI, &c));
    result("fd.TIOCSTI2", ioctl(2, TIOCSTI, &c));
    char target[256];
    long n = readlink("/proc/self/fd/0", target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    say("fd.stdin", target);
}

static void files(const char *input) {
    char path[4096], text[256];
    names_in("dir./", "/");
    names_in("dir./dev", "/dev");
    names_in("dir./dev/pts", "/dev/pts");
    names_in("dir./dev/shm", "/dev/shm");
    names_in("dir./etc", "/etc");
    names_in("dir./tmp", "/tmp");
    names_in("dir./build", "/build");
    names_in("dir./nix", "/nix");
    names_in("dir./nix/store", "/nix/store");
    const char *dirs[] = {"/", "/dev", "/dev/shm", "/dev/null", "/dev/ptmx", "/dev/pts", "/etc", "/etc/passwd", "/etc/group", "/etc/hosts", "/tmp", "/build", "/nix", "/nix/store", "/proc"};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) mode_of(dirs[i]);
    const char *outside[] = {"/root", "/home", "/usr", "/var", "/sys", "/run", "/boot", "/mnt", "/etc/shadow", "/etc/os-release", "/etc/resolv.conf", "/etc/machine-id", "/bin/sh", "/usr/bin/env", "/nix/var", "/real-root", "/old", "/.."};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        snprintf(text, sizeof text, "outside.%s", outside[i]);
        struct stat st, root;
        stat("/", &root);
        if (stat(outside[i], &st) < 0)
            say(text, error_name(errno));
        else
            say(text, st.st_ino == root.st_ino && st.st_dev == root.st_dev ? "root" : "there");
    }
    opens("outside.host-file", getenv("hostFile"), O_RDONLY);
    opens("outside.other-object", getenv("otherObject"), O_RDONLY);
    FILE *passwd = fopen("/etc/passwd", "r");
    for (int i = 0; passwd && fgets(path, sizeof path, passwd); i++) {
        path[strcspn(path, "\n")] = 0;
        snprintf(text, sizeof text, "passwd.%d", i);
        say(text, path);
    }
    if (passwd) fclose(passwd);
    FILE *group = fopen("/etc/group", "r");
    for (int i = 0; group && fgets(path, sizeof path, group); i++) {
        path[strcspn(path, "\n")] = 0;
        snprintf(text, sizeof text, "group.%d", i);
        say(text, path);
    }
    if (group) fclose(group);
    line_of("hosts", "/etc/hosts");

    struct stat st;
    stat(input, &st);
    number("input.mtime", st.st_mtime);
    number("input.nlink", (long)st.st_nlink);
    opens("input.write", input, O_WRONLY);
    snprintf(path, sizeof path, "%s/file", input);
    stat(path, &st);
    number("input.file.mtime", st.st_mtime);
    opens("input.file.write", path, O_WRONLY);
    result("input.file.truncate", truncate(path, 0));
    result("input.file.chmod", chmod(path, 0644));
    result("input.file.times", utimensat(AT_FDCWD, path, NULL, 0));
    result("input.file.unlink", unlink(path));
    result("input.file.link", link(path, "/build/linked"));
    snprintf(path, sizeof path, "%s/new", input);
    opens("input.create", path, O_WRONLY | O_CREAT);
    result("input.mkdir", mkdir(path, 0755));
    result("input.rmdir", rmdir(input));
    result("input.rename", rename(input, "/build/moved"));
    result("input.mount-over", mount("none", input, "tmpfs", 0, NULL));
    result("input.remount", mount(NULL, input, NULL, MS_REMOUNT | MS_BIND, NULL));
    result("input.umount", umount2(input, MNT_DETACH));
    const char *single = getenv("inputFile");
    opens("input.single.write", single, O_WRONLY);
    result("input.single.chmod", chmod(single, 0777));
    result("input.single.times", utimensat(AT_FDCWD, single, NULL, 0));
    result("input.single.truncate", truncate(single, 0));
    const char *linked = getenv("inputLink");
    number("input.link", lstat(linked, &st) == 0 && S_ISLNK(st.st_mode));
    opens("place.store", "/nix/store/11111111111111111111111111111111-x", O_WRONLY | O_CREAT);
    opens("place.root", "/x", O_WRONLY | O_CREAT);
    opens("place.etc", "/etc/x", O_WRONLY | O_CREAT);
    opens("place.passwd", "/etc/passwd", O_WRONLY);
    opens("place.nix", "/nix/x", O_WRONLY | O_CREAT);
    opens("place.dev", "/dev/x", O_WRONLY | O_CREAT);
    opens("place.tmp", "/tmp/x", O_WRONLY | O_CREAT);
    opens("place.shm", "/dev/shm/x", O_WRONLY | O_CREAT);
    unlink("/nix/store/11111111111111111111111111111111-x");
    unlink("/tmp/x");
    unlink("/dev/shm/x");
}

static void proc(void) {
    struct {
        const char *path;
        int flags;
    } tries[] = {
        {"/proc/1/environ", O_RDONLY}, {"/proc/1/mem", O_RDWR}, {"/proc/1/maps", O_RDONLY}, {"/proc/1/root/etc", O_RDONLY}, {"/proc/1/cwd", O_RDONLY}, {"/proc/1/fd", O_RDONLY}, {"/proc/1/oom_score_adj", O_WRONLY},
        {"/proc/kcore", O_RDONLY}, {"/proc/kmsg", O_RDONLY}, {"/proc/kpagecount", O_RDONLY}, {"/proc/sysrq-trigger", O_WRONLY}, {"/proc/mtrr", O_WRONLY}, {"/proc/acpi/wakeup", O_WRONLY}, {"/proc/scsi/scsi", O_WRONLY}, {"/proc/irq/default_smp_affinity", O_WRONLY},
        {"/proc/sys/kernel/core_pattern", O_WRONLY}, {"/proc/sys/kernel/hostname", O_WRONLY}, {"/proc/sys/kernel/modprobe", O_WRONLY}, {"/proc/sys/kernel/randomize_va_space", O_WRONLY}, {"/proc/sys/vm/drop_caches", O_WRONLY}, {"/proc/sys/net/ipv4/ip_forward", O_WRONLY}, {"/proc/sys/kernel/shmmax", O_WRONLY}, {"/proc/sys/fs/binfmt_misc/register", O_WRONLY},
        {"/dev/mem", O_RDONLY}, {"/dev/kmsg", O_RDONLY}, {"/dev/sda", O_RDONLY}, {"/dev/vda", O_RDONLY}, {"/dev/fuse", O_RDWR}, {"/dev/kvm", O_RDWR}, {"/dev/net/tun", O_RDWR}, {"/dev/loop-control", O_RDWR}, {"/dev/ptmx", O_RDWR}, {"/dev/full", O_RDONLY}, {"/dev/mqueue", O_RDONLY}, {"/sys/fs/cgroup", O_RDONLY}, {"/sys/kernel/uevent_helper", O_WRONLY},
    };
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        char name[128];
        snprintf(name, sizeof name, "open.%s", tries[i].path);
        opens(name, tries[i].path, tries[i].flags);
    }
    const char *memory[] = {"/proc/kcore", "/proc/kpagecount", "/proc/kpageflags"};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        char name[128], bytes[8];
        snprintf(name, sizeof name, "read.%s", memory[i]);
        int fd = open(memory[i], O_RDONLY | O_CLOEXEC);
        number(name, fd < 0 || read(fd, bytes, sizeof bytes) < 0 ? -1 : lseek(fd, 0, SEEK_CUR) > 0);
        if (fd >= 0) close(fd);
    }
    long count = 0;
    DIR *dir = opendir("/proc");
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] >= '0' && e->d_name[0] <= '9') count++;
    if (dir) closedir(dir);
    number("proc.others", count <= 2 ? 0 : count);
    long parent = getppid();
    number("proc.parent", parent > 1);
    result("signal.init", kill(1, 0));
    result("signal.parent-of-all", kill(4194303, 0));
    result("signal.host", kill(atoi(getenv("hostPid")), 0));
    result("ptrace.init", ptrace(PTRACE_ATTACH, 1, NULL, NULL));
    result("ptrace.host", ptrace(PTRACE_ATTACH, atoi(getenv("hostPid")), NULL, NULL));
    char byte;
    struct iovec mine = {&byte, 1}, theirs = {(void *)0x400000, 1};
    result("ptrace.readv-host", process_vm_readv(atoi(getenv("hostPid")), &mine, 1, &theirs, 1, 0));
    result("pidfd.host", syscall(SYS_pidfd_open, atoi(getenv("hostPid")), 0));
    int pidfd = (int)syscall(SYS_pidfd_open, 1, 0);
    if (getpid() != 1) result("pidfd.getfd-init", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    result("priority.raise", setpriority(PRIO_PROCESS, 0, -5));
    struct sched_param fifo = {.sched_priority = 1};
    result("priority.realtime", sched_setscheduler(0, SCHED_FIFO, &fifo));
    result("priority.io", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
}

/* Mounts: what each has besides its place. Where on the machine it comes from is not compared. */
static void mounts(const char *input) {
    FILE *info = fopen("/proc/self/mountinfo", "r");
    char line[8192];
    long hosts = 0;
    while (info && fgets(line, sizeof line, info)) {
        char root[4096], at[4096], options[512], type[64] = "";
        if (sscanf(line, "%*d %*d %*s %4095s %4095s %511s", root, at, options) != 3) continue;
        char *rest = strstr(line, " - ");
        if (rest) sscanf(rest, " - %63s", type);
        int bound = strncmp(at, "/nix/store/", 11) == 0 && strcmp(at, input) != 0;
        if (strcmp(root, "/") && strstr(root, "/")) hosts++;
        if (bound) continue;
        char name[4200], text[700];
        snprintf(name, sizeof name, "mount.%s", strcmp(at, input) ? at : "INPUT");
        if (!strcmp(at, "/") || !strcmp(at, "/build") || !strcmp(at, "/nix/store") || !strcmp(at, input)) strcpy(type, "*");
        snprintf(text, sizeof text, "%s %s%s%s%s", type, strncmp(options, "ro", 2) ? "rw" : "ro", strstr(options, "nosuid") ? " nosuid" : "", strstr(options, "nodev") ? " nodev" : "", strstr(options, "noexec") ? " noexec" : "");
        say(name, text);
    }
    if (info) fclose(info);
    number("mounts.bound", hosts > 0);
}

static int connect_to(int family, struct sockaddr *address, socklen_t length) {
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int value = connect(fd, address, length);
    if (value < 0 && errno == EINPROGRESS) errno = 0, value = 0;
    int error = errno;
    close(fd);
    errno = error;
    return value;
}

/* The way to sockets that i386 had first: its arguments are in memory. */
static void socketcall(const char *name, uint32_t family, uint32_t type) {
    uint32_t *words = (uint32_t *)(low + 4096);
    words[0] = family, words[1] = type, words[2] = 0;
    long value = call32(102, 1, (long)words, 0, 0);
    say(name, value < 0 ? error_name((int)-value) : "ok");
    if (value >= 0) close((int)value);
}

static void network(void) {
    struct if_nameindex *list = if_nameindex();
    char text[1024] = "";
    for (struct if_nameindex *i = list; list && i->if_index; i++) snprintf(text + strlen(text), 64, "%s ", i->if_name);
    say("net.interfaces", text);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {.ifr_name = "lo"};
    ioctl(fd, SIOCGIFFLAGS, &request);
    number("net.lo-up", !!(request.ifr_flags & IFF_UP));
    request.ifr_flags &= ~IFF_UP;
    result("net.lo-down", ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = sizeof address;
    bind(listener, (struct sockaddr *)&address, length);
    listen(listener, 1);
    getsockname(listener, (struct sockaddr *)&address, &length);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    result("net.own-loopback", connect(client, (struct sockaddr *)&address, length));
    close(client);
    address.sin_port = htons((uint16_t)atoi(getenv("hostPort")));
    client = socket(AF_INET, SOCK_STREAM, 0);
    result("net.host-loopback", connect(client, (struct sockaddr *)&address, sizeof address));
    close(client);
    address.sin_addr.s_addr = inet_addr("192.0.2.1");
    result("net.outside", connect_to(AF_INET, (struct sockaddr *)&address, sizeof address));
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    inet_pton(AF_INET6, "2001:db8::1", &six.sin6_addr);
    result("net.outside6", connect_to(AF_INET6, (struct sockaddr *)&six, sizeof six));
    result("net.packet", socket(AF_PACKET, SOCK_RAW, 0));
    everywhere("net.socket.unix", 41, 359, AF_UNIX, SOCK_STREAM, 0, 0);
    everywhere("net.socket.inet", 41, 359, AF_INET, SOCK_STREAM, 0, 0);
    everywhere("net.vsock", 41, 359, AF_VSOCK, SOCK_STREAM, 0, 0);
    socketcall("net.socketcall.unix", AF_UNIX, SOCK_STREAM);
    socketcall("net.socketcall.inet", AF_INET, SOCK_STREAM);
    result("net.raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    struct sockaddr_un abstract = {.sun_family = AF_UNIX};
    const char *name = getenv("hostSocket");
    memcpy(abstract.sun_path + 1, name, strlen(name));
    result("net.abstract", connect_to(AF_UNIX, (struct sockaddr *)&abstract, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
    long segments = -1;
    FILE *shared = fopen("/proc/sysvipc/shm", "r");
    while (shared && fgets(text, sizeof text, shared)) segments++;
    if (shared) fclose(shared);
    number("ipc.segments", segments);
    result("ipc.own", shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    number("net.low-port", ({
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(80)};
        int s = socket(AF_INET, SOCK_STREAM, 0), v = bind(s, (struct sockaddr *)&at, sizeof at);
        close(s);
        v < 0 ? -errno : 0;
    }));
}

/* Makes a file that has these bits from its first moment, in each way there is, and tells which of them it got. */
static void set_id_files(const char *file, const char *kind, long bit) {
    enum { FILE_NAME = -1, HOW = -2 };
    const long new = O_CREAT | O_RDWR, node = S_IFREG | bit;
    const struct {
        const char *name;
        long nr64, nr32, args[4];
    } calls[] = {
        {"open", 2, 5, {FILE_NAME, new, bit, 0}},
        {"openat", 257, 295, {AT_FDCWD, FILE_NAME, new, bit}},
        {"tmpfile", 257, 295, {AT_FDCWD, FILE_NAME, O_TMPFILE | O_RDWR, bit}},
        {"creat", 85, 8, {FILE_NAME, bit, 0, 0}},
        {"mknod", 133, 14, {FILE_NAME, node, 0, 0}},
        {"mknodat", 259, 297, {AT_FDCWD, FILE_NAME, node, 0}},
        {"openat2", 437, 437, {AT_FDCWD, FILE_NAME, HOW, 24}},
    };
    char what[64], made[4096];
    snprintf(made, sizeof made, "%s.made", file);
    uint64_t *how = (uint64_t *)(low + 4096);
    how[0] = (uint64_t)new, how[1] = (uint64_t)bit, how[2] = 0;
    for (size_t call = 0; call < sizeof calls / sizeof *calls; call++) {
        for (int abi = 0; abi < 3; abi++) {
            unlink(made);
            int unnamed = !strcmp(calls[call].name, "tmpfile");
            long name = (long)low_text(unnamed ? "/build" : made), args[4];
            for (int i = 0; i < 4; i++) {
                long arg = calls[call].args[i];
                args[i] = arg == FILE_NAME ? name : arg == HOW ? (long)how : arg;
            }
            long value = abi == 1 ? call32(calls[call].nr32, args[0], args[1], args[2], args[3])
                                  : call64(calls[call].nr64 | (abi == 2 ? 0x40000000 : 0), args[0], args[1], args[2], args[3]);
            struct stat st = {0};
            snprintf(what, sizeof what, "%s.%s.%s", kind, calls[call].name, abis[abi]);
            if (value < 0)
                say(what, error_name((int)-value));
            else
                number(what, (unnamed ? fstat((int)value, &st) : stat(made, &st)) < 0 ? -errno : (long)(st.st_mode & 06000));
            if (value > 2) close((int)value);
        }
    }
}

static void set_id_bits(const char *file) {
    struct stat st;
    int fd = open(file, O_CREAT | O_RDWR, 0644);
    long name = (long)low_text(file);
    for (int bit = 04755; bit >= 02755; bit -= 02000) {
        const char *kind = bit == 04755 ? "setuid" : "setgid";
        char what[64];
#define TRY(call, n64, n32, ...) snprintf(what, sizeof what, "%s.%s", kind, call), everywhere(what, n64, n32, __VA_ARGS__)
        TRY("chmod", 90, 15, name, bit, 0, 0);
        TRY("fchmod", 91, 94, fd, bit, 0, 0);
        TRY("fchmodat", 268, 306, AT_FDCWD, name, bit, 0);
        TRY("fchmodat2", 452, 452, AT_FDCWD, name, bit, 0);
        set_id_files(file, kind, bit);
        name = (long)low_text(file);
    }
    set_id_files(file, "plain", 0755);
    low_text(file);
    everywhere("plain.chmod", 90, 15, name, 0755, 0, 0);
    everywhere("plain.fchmodat2", 452, 452, AT_FDCWD, name, 0755, 0);
    stat(file, &st);
    number("setid.bits", st.st_mode & 06000);
    result("setid.chown", chown(file, 0, 0));
    char created[4096];
    snprintf(created, sizeof created, "%s.created", file);
    close(open(created, O_CREAT | O_RDWR, 04755));
    number("setid.by-open", stat(created, &st) ? -errno : (long)(st.st_mode & 06000));
    close(fd);
}

static void attributes(const char *file) {
    int fd = open(file, O_RDWR);
    char *name = low_text(file), *attr = strcpy(low + 1024, "user.x"), *value = strcpy(low + 2048, "v");
    long n = (long)name, a = (long)attr, v = (long)value;
    everywhere("xattr.setxattr", 188, 226, n, a, v, 1);
    everywhere("xattr.lsetxattr", 189, 227, n, a, v, 1);
    everywhere("xattr.fsetxattr", 190, 228, fd, a, v, 1);
    everywhere("xattr.getxattr", 191, 229, n, a, v, 1);
    everywhere("xattr.lgetxattr", 192, 230, n, a, v, 1);
    everywhere("xattr.fgetxattr", 193, 231, fd, a, v, 1);
    everywhere("xattr.listxattr", 194, 232, n, v, 8, 0);
    everywhere("xattr.llistxattr", 195, 233, n, v, 8, 0);
    everywhere("xattr.flistxattr", 196, 234, fd, v, 8, 0);
    everywhere("xattr.removexattr", 197, 235, n, a, 0, 0);
    everywhere("xattr.lremovexattr", 198, 236, n, a, 0, 0);
    everywhere("xattr.fremovexattr", 199, 237, fd, a, 0, 0);
    everywhere("xattr.setxattrat", 463, 463, AT_FDCWD, n, 0, a);
    everywhere("xattr.getxattrat", 464, 464, AT_FDCWD, n, 0, a);
    everywhere("xattr.listxattrat", 465, 465, AT_FDCWD, n, 0, v);
    everywhere("xattr.removexattrat", 466, 466, AT_FDCWD, n, 0, a);
    close(fd);
}

static void kernel(void) {
    long text = (long)low_text("/build/x"), type = (long)strcpy(low + 1024, "user"), zero = (long)(memset(low + 2048, 0, 512), low + 2048);
    everywhere("kernel.add_key", 248, 286, type, text, zero, 1);
    everywhere("kernel.request_key", 249, 287, type, text, 0, 0);
    everywhere("kernel.keyctl", 250, 288, 0, -3, 1, 0);
    everywhere("kernel.bpf", 321, 357, 0, zero, 0, 0);
    everywhere("kernel.perf_event_open", 298, 336, zero, 0, -1, -1);
    everywhere("kernel.userfaultfd", 323, 374, 0, 0, 0, 0);
    everywhere("kernel.io_uring_setup", 425, 425, 1, zero, 0, 0);
    memset(low + 2048, 0, 512);
    everywhere("kernel.kexec_load", 246, 283, 0, 0, 0, 0);
    everywhere("kernel.kexec_load-x32", 528, 0, 0, 0, 0, 0);
    everywhere("kernel.kexec_file_load", 320, 0, -1, -1, 0, 0);
    everywhere("kernel.init_module", 175, 128, zero, 1, zero, 0);
    everywhere("kernel.finit_module", 313, 350, -1, zero, 0, 0);
    everywhere("kernel.reboot", 169, 88, (long)0xfee1dead, 0x28121969, 0, 0);
    everywhere("kernel.swapon", 167, 87, text, 0, 0, 0);
    everywhere("kernel.acct", 163, 51, text, 0, 0, 0);
    everywhere("kernel.settimeofday", 164, 79, zero, 0, 0, 0);
    everywhere("kernel.syslog", 103, 103, 3, text, 8, 0);
    everywhere("kernel.iopl", 172, 110, 3, 0, 0, 0);
    everywhere("kernel.mount", 165, 21, zero, text, zero, 0);
    everywhere("kernel.pivot_root", 155, 217, text, text, 0, 0);
    everywhere("kernel.chroot", 161, 61, text, 0, 0, 0);
    everywhere("kernel.sethostname", 170, 74, text, 1, 0, 0);
    everywhere("kernel.setdomainname", 171, 121, text, 1, 0, 0);
    everywhere("kernel.open_by_handle_at", 304, 342, 0, zero, 0, 0);
    everywhere("kernel.fanotify_init", 300, 338, 0, 0, 0, 0);
    everywhere("kernel.quotactl", 179, 131, 0x800002, 0, 0, 0);
    everywhere("kernel.mknod-device", 133, 14, text, S_IFCHR | 0600, 0x103, 0);
    result("kernel.mknod-whiteout", mknod("/build/x", S_IFCHR | 0600, 0));
    unlink("/build/x");
    result("kernel.fifo", mkfifo("/build/x", 0600));
    unlink("/build/x");
    result("kernel.unix-socket", ({
        struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/build/s"};
        bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&at, sizeof at);
    }));
    unlink("/build/s");
    result("kernel.setns-init", ({
        int fd = open("/proc/1/ns/mnt", O_RDONLY);
        fd < 0 ? -1 : setns(fd, 0);
    }));
    result("kernel.coredump", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    result("kernel.capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0));
}

/* What somebody can do who makes himself root of a namespace of his own. */
static void nested(const char *input) {
    fflush(out);
    pid_t pid = fork();
    if (pid == 0) {
        int uid = (int)getuid();
        result("nested.userns", unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS));
        int fd = open("/proc/self/uid_map", O_WRONLY);
        char map[64];
        snprintf(map, sizeof map, "0 %d 1", uid);
        result("nested.map", write(fd, map, strlen(map)));
        close(fd);
        result("nested.tmpfs", mount("none", "/tmp", "tmpfs", 0, NULL));
        result("nested.remount-input", mount(NULL, input, NULL, MS_REMOUNT | MS_BIND, NULL));
        result("nested.umount-input", umount2(input, MNT_DETACH));
        result("nested.umount-proc", umount2("/proc", MNT_DETACH));
        result("nested.umount-store", umount2("/nix/store", MNT_DETACH));
        result("nested.bind-input", mount(input, "/tmp", NULL, MS_BIND, NULL));
        result("nested.remount-bound", mount(NULL, "/tmp", NULL, MS_REMOUNT | MS_BIND, NULL));
        opens("nested.write-input", "/tmp/file", O_WRONLY);
        result("nested.proc", mount("proc", "/tmp", "proc", 0, NULL));
        opens("nested.core-pattern", "/proc/sys/kernel/core_pattern", O_WRONLY);
        result("nested.chmod", chmod("/build/probe", 04755));
        result("nested.mknod", mknod("/build/device", S_IFCHR | 0600, 0x103));
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    number("nested.end", status);
}

/* A process that wants to live on when the build is over; its argument tells the test whose it is. */
static void daemon_of(const char *self) {
    fflush(out);
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            signal(SIGHUP, SIG_IGN);
            signal(SIGTERM, SIG_IGN);
            for (int fd = 0; fd < 64; fd++) close(fd);
            char *argv[] = {(char *)self, "stay", getenv("mark"), NULL}, *envp[] = {NULL};
            execve(self, argv, envp);
        }
        _exit(0);
    }
    wait(NULL);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "stay"))
        for (;;) pause();
    const char *input = getenv("inputDir");
    out = fopen(getenv("out"), "we");
    low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct sigaction fault = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGSYS, &fault, NULL);
    if (!out || low == MAP_FAILED || !input) return 3;
    close(open("/build/probe", O_CREAT | O_RDWR, 0644));
    identity(argv);
    descriptors();
    files(input);
    proc();
    mounts(input);
    network();
    set_id_bits("/build/probe");
    attributes("/build/probe");
    kernel();
    nested(input);
    daemon_of("/proc/self/exe");
    fclose(out);
    return 0;
}
