#!/usr/bin/env bash
# records.sh BIN COUNT KILLS [WORKERS]: so many ids, one task each, the daemon killed so often on the way.
# Prints the time, the daemon's peak memory, rows, inodes of the spool and bytes of its journal.
#   cargo build --release && benches/records.sh "$PWD"/target/release/inboxd 1000000 3
set -u
bin=$1 count=$2 kills=$3 workers=${4:-2}
home=$(mktemp -d) && cd "$home" || exit 1
mkdir -p inbox/incoming
cat > inbox/inboxd.toml <<T
workers = $workers
allow_root = true
[routes.ids]
records = "csv"
interpreter = "/usr/bin/python3"
python = "f.py:f"
trace_columns = false
T
echo 'def f(customer_id: str): return {"id": customer_id}' > inbox/f.py
{ echo customer_id; seq 1 $count; } > inbox/incoming/TestData.csv
chmod 700 inbox; begin=$(date +%s.%N); peak=0
for round in $(seq 0 $kills); do
  "$bin" --spool inbox batch > out.$round 2> err.$round &
  super=$!
  target=$(( round < kills ? count * (round + 1) / (kills + 1) : count * 9 ))
  while kill -0 $super 2>/dev/null; do
    d=$(pgrep -P $super | head -1)
    [[ -n $d ]] && { p=$(awk '/VmHWM/{print $2}' /proc/$d/status 2>/dev/null); [[ -n $p && $p -gt $peak ]] && peak=$p; }
    # bytes stand for rows: counting a million lines each time would be the load
    n=$(stat -c %s inbox/results/ids*.csv 2>/dev/null | awk '{s+=$1} END{print int(s/7)}')
    if [[ $round -lt $kills && -n $n && $n -ge $target && -n $d ]]; then kill -9 $d; break; fi
    sleep 0.2
  done
  wait $super 2>/dev/null
done
end=$(date +%s.%N)
rows=$(cat inbox/results/ids*.csv | grep -v '^id$' | sort -u | wc -l); all=$(cat inbox/results/ids*.csv | grep -vc '^id$')
echo "count $count kills $kills: $(echo "$end - $begin" | bc) s   peak ${peak} KiB   rows $all distinct $rows   inodes $(find inbox | wc -l)   journal $(du -sk inbox/journal | cut -f1) KiB"
tail -n 3 "out.$kills"; rm -rf "$home"
