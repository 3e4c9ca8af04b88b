[ ./ok not/ok ]
