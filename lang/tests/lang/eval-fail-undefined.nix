{ a = 1; b = nme; name = 2; }
