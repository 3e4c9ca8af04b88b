https://example.org/x
