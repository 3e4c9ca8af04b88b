[ "https://example.org" ./a/b ../c ]
