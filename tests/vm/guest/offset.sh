# A probe that reads at a wrong offset: the kernel runs on, but the workloads' truth must not match.
paths=/opt/sensor/probes/paths.h
cp $paths /tmp/before
sed -i 's|READ(facts->inode, &inode->i_ino)|READ(facts->inode, (char *)\&inode->i_ino + 8)|' $paths
cmp -s $paths /tmp/before && { echo "nothing to break: paths.h has changed"; exit 9; }
python3 live.py first && { echo "nobody noticed"; exit 0; }
# Noticed for the right reason: inodes are wrong, and processes are still right.
grep -q '"file-open create (files)": "0/23"' "$VM_DATA" || exit 9
grep -q '"process-exec fork (forkexec)": "23/23"' "$VM_DATA" || exit 9
exit 1
