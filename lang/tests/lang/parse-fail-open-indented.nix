{ a = ''text;
}
