/* Says what this host is: its release and how many packages it has. */

#include <stdio.h>
#include <string.h>

#include "facts.h"

static int report(FILE *out)
{
    char release[256];
    if (fact_from_file("/etc/os-release", "PRETTY_NAME", release, sizeof release) != 0)
        snprintf(release, sizeof release, "an unknown system");
    fprintf(out, "Hello from %s", release);
    int packages = installed_packages("/var/lib/dpkg/status");
    if (packages >= 0)
        fprintf(out, ", %d packages", packages);
    fputs("\n", out);
    return ferror(out) || fflush(out) != 0;
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return report(stdout);
    if (argc == 3 && strcmp(argv[1], "--output") == 0) {
        FILE *out = fopen(argv[2], "w");
        if (out == NULL) {
            perror(argv[2]);
            return 1;
        }
        int failed = report(out);
        return fclose(out) != 0 || failed;
    }
    fprintf(stderr, "usage: %s [--output FILE]\n", argv[0]);
    return 2;
}
