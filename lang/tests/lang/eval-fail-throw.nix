{ a.b.c = throw "no way"; }
