assert 1; true
