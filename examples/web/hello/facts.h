#ifndef FACTS_H
#define FACTS_H

#include <stddef.h>

/* Finds KEY=VALUE in a file of shell-like assignments and copies VALUE, without quotes, to `value`.
   Returns 0, or -1 when the file or the key is not there. */
int fact_from_file(const char *path, const char *key, char *value, size_t size);

/* Counts the installed packages in dpkg's status file; returns -1 when there is none. */
int installed_packages(const char *status);

#endif
