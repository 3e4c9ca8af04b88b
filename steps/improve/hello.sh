# What was built has to be able to go on: a program is compiled and run, with nothing of the seed but its shell.
cat >/tmp/hello.c <<'C'
#include <math.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	char text[32];

	snprintf(text, sizeof text, "%s %d %.3f", argv[1], argc, sqrt(2.0));
	puts(text);
	return strcmp(text, "hello 2 1.414");
}
C
tcc -o /tmp/hello /tmp/hello.c -lm
/tmp/hello hello
rm /tmp/hello /tmp/hello.c
