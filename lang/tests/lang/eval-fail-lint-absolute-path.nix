{ ok = ./x; bad = /etc/passwd; }
