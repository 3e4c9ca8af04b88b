assert 1 == "1"; true
