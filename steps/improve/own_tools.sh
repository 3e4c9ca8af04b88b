# From here on the programs that were built are used, and none of the seed of the same names.
for tool in bzip2 cc cmp diff gzip m4 make patch tcc; do
	if [ "${PROFILE}" = small ] && [ "${tool%m4}" != "${tool}" ]; then
		continue
	fi
	case "$(readlink -f "$(command -v "${tool}")")" in
	*/busybox)
		echo "${tool} is still that of the seed"
		exit 1
		;;
	esac
done
tcc -v | grep -q '^tcc version'
# flex writes a scanner, with m4, and the compiler makes a program of it.
if [ "${LEXER}" = True ]; then
	cat >/tmp/words.l <<'L'
%option noyywrap
%%
[a-z]+	printf("<%s>", yytext);
%%
int main(void)
{
	return yylex();
}
L
	flex -o /tmp/words.c /tmp/words.l
	tcc -o /tmp/words /tmp/words.c
	[ "$(printf 'one 2 three' | /tmp/words)" = '<one> 2 <three>' ]
	rm /tmp/words /tmp/words.c /tmp/words.l
fi
