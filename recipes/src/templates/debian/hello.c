#include <stdio.h>

int main(void)
{
    puts("Hello from a program built by sos.");
    return 0;
}
