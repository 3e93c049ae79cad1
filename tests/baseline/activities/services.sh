# A web server, an application server, databases and a message store under load.
id dev > /dev/null 2>&1 || useradd --create-home --shell /bin/bash dev
mkdir -p /var/www/html /srv/app
for n in $(seq 1 50); do echo "<p>$n</p>" > "/var/www/html/$n.html"; done
printf 'server { listen 127.0.0.1:80 default_server; root /var/www/html; location /app/ { proxy_pass http://127.0.0.1:8000/; } }\n' > /etc/nginx/sites-enabled/default
nginx -t; service nginx stop || true; nginx
cat > /srv/app/app.py <<'PY'
import http.server, sqlite3
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with sqlite3.connect("/srv/app/state.db") as db:
            db.execute("create table if not exists hits(path)"); db.execute("insert into hits values (?)", (self.path,))
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args):
        with open("/srv/app/access.log", "a") as log: print(self.path, file=log)
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), App).serve_forever()
PY
chown -R dev: /srv/app
runuser -u dev -- python3 /srv/app/app.py & app=$!
sleep 2
ab -q -n "$REQUESTS" -c 8 http://127.0.0.1/7.html > /dev/null
ab -q -n $((REQUESTS / 10)) -c 4 http://127.0.0.1/app/x > /dev/null
for n in $(seq 1 50); do curl -fsS "http://127.0.0.1/$n.html" > /dev/null; wget -qO /dev/null "http://127.0.0.1/$n.html"; done
nginx -s reload
service postgresql start || pg_ctlcluster 15 main start
runuser -u postgres -- createdb shop
runuser -u postgres -- /usr/lib/postgresql/15/bin/pgbench -i -q shop || true
runuser -u postgres -- /usr/lib/postgresql/15/bin/pgbench -C -t 300 -c 2 shop || true
runuser -u postgres -- psql -c 'select count(*) from pgbench_accounts' shop
runuser -u postgres -- pg_dump shop | gzip > /var/backups/shop.sql.gz
runuser -u postgres -- vacuumdb -q -a
service redis-server start || redis-server --daemonize yes
redis-benchmark -q -n 5000 -t set,get || true
redis-cli bgsave
service nginx stop || nginx -s quit
service postgresql stop || true
service redis-server stop || true
kill $app
