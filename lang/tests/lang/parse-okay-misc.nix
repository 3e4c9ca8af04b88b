x: with x; assert x ? a.b; if !x.c then -x.d or 1 else let y = 1; in y
