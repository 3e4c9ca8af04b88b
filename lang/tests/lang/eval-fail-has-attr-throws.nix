(throw "set") ? a
