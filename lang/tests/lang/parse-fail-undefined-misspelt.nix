let counter = 1; in countre + 1
