(rec { __overrides = { b = 10; }; a = b; b = 1; }).a
