let x = { ok = false; }; in assert x.ok && (x ? a -> x.a); true
