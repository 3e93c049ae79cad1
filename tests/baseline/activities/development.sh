# A developer's day: a C project, git, configure and make, all as an ordinary user.
useradd --create-home --shell /bin/bash dev
cat > /home/dev/day.sh <<'DAY'
set -eu
cd "$HOME"
git config --global user.name "A Developer"; git config --global user.email dev@example.org
git init -q project; cd project
mkdir -p src include
for n in $(seq 1 80); do
    printf '#include "all.h"\n#include <stdio.h>\nint part%s(int x) { char b[32]; snprintf(b, 32, "%%d", x); return b[0] + %s; }\n' $n $n > src/part$n.c
    echo "int part$n(int);" >> include/all.h
done
{ echo '#include "all.h"'; echo 'int main(void) { int s = 0;'
  for n in $(seq 1 80); do echo "s += part$n(s);"; done; echo 'return s == 0; }'; } > src/main.c
printf 'CFLAGS = -O1 -Iinclude -MMD\nOBJ = $(patsubst src/%%.c,build/%%.o,$(wildcard src/*.c))\nbuild/main: $(OBJ)\n\t$(CC) -o $@ $^\nbuild/%%.o: src/%%.c\n\t@mkdir -p build\n\t$(CC) $(CFLAGS) -c -o $@ $<\ncheck: build/main\n\t./build/main\ninstall: build/main\n\tinstall -D -m 755 build/main $(DESTDIR)/bin/project\nclean:\n\trm -rf build\n' > Makefile
echo build > .gitignore
git add .; git commit -q -m first
make -s -j2 check; make -s install DESTDIR="$HOME/.local"
for n in $(seq 1 20); do
    git checkout -q -b topic$n; echo "/* $n */" >> src/part$n.c; git commit -q -am "change $n"
    make -s check; git checkout -q master; git merge -q --no-edit topic$n; git branch -q -d topic$n
done
make -s clean; make -s -j2 check
git log --stat > /dev/null; git status --short; git stash list; git tag v1; git gc -q
git clone -q --bare . "$HOME/project.git"; git remote add origin "$HOME/project.git"; git fetch -q
git clone -q "$HOME/project.git" "$HOME/copy"; cd "$HOME/copy"; git rebase -q HEAD~3 || true
git archive --format=tar.gz -o "$HOME/project.tar.gz" HEAD
# What a configure script does: hundreds of tiny compilations and shells.
mkdir "$HOME/configure"; cd "$HOME/configure"
for header in stdio stdlib string unistd fcntl errno math time signal pthread sched poll netdb termios dirent pwd grp utime; do
    echo "#include <$header.h>" > conftest.c
    echo 'int main(void) { return 0; }' >> conftest.c
    if gcc -o conftest conftest.c 2> conftest.err && ./conftest; then echo "#define HAVE_$header 1" >> config.h; fi
    rm -f conftest conftest.err
    case $(uname -s) in Linux) expr "$header" : '.*' > /dev/null;; esac
    sed -e 's/ /_/g' config.h | tr a-z A-Z | awk '{ print $2 }' | sort | uniq -c > /dev/null
done
cd "$HOME"; tar xzf project.tar.gz --one-top-level=unpacked; zip -qr p.zip unpacked; unzip -qo p.zip -d again
g++ -x c++ -O1 -o hello - <<'CPP'
#include <iostream>
int main() { std::cout << "hello\n"; }
CPP
./hello; ldd ./hello; nm -C ./hello | head -3; strip hello; file hello; objdump -h hello > /dev/null; gdb --version || true
perl -e 'print join ",", map { $_ * $_ } 1 .. 9'; awk 'BEGIN { print 1 }'; sqlite3 t.db 'create table t(a); insert into t values (1); select * from t'
DAY
runuser -l dev -c 'bash /home/dev/day.sh'
