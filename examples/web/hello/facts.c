#include "facts.h"

#include <stdio.h>
#include <string.h>

int fact_from_file(const char *path, const char *key, char *value, size_t size)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return -1;
    char line[512];
    size_t key_length = strlen(key);
    int found = -1;
    while (found != 0 && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, key_length) != 0 || line[key_length] != '=')
            continue;
        char *start = line + key_length + 1;
        start[strcspn(start, "\n")] = '\0';
        size_t length = strlen(start);
        if (length >= 2 && start[0] == '"' && start[length - 1] == '"') {
            start[length - 1] = '\0';
            start++;
        }
        snprintf(value, size, "%s", start);
        found = 0;
    }
    fclose(file);
    return found;
}

int installed_packages(const char *status)
{
    FILE *file = fopen(status, "r");
    if (file == NULL)
        return -1;
    char line[4096];
    int count = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strcmp(line, "Status: install ok installed\n") == 0)
            count++;
    }
    fclose(file);
    return count;
}
