builtins.fromTOML ("when = 2021-03-04T05:06:07.5+01:30\nday = 2021-03-04\ntime = 05:06:07.123456\nlocal = 2021-03-04 05:06:07")
