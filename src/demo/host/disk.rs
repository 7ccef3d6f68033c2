//! `disk`: space and inodes of mounted file systems.

use crate::proto::metric::{FieldValue, Metric};

/// File systems that Telegraf's sample configuration leaves out, of those that are on a device.
const IGNORED: &[&str] = &["iso9660", "squashfs"];

/// A file system on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    device: String,
    fstype: String,
    /// Where it is mounted.
    pub(super) path: String,
    read_only: bool,
}

/// A file system's size, from statvfs(3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) total_bytes: u64,
    /// Free to everybody.
    pub(super) available_bytes: u64,
    /// Free to root.
    pub(super) free_bytes: u64,
    pub(super) inodes_total: u64,
    pub(super) inodes_free: u64,
}

/// Reads `/proc/self/mountinfo` and `/proc/filesystems` (proc_pid_mountinfo(5)): file systems on devices, each once, where
/// it is mounted closest to the root. A container's bind mounts of single files would be so many copies of one disk.
pub(super) fn mounts(mountinfo: &str, filesystems: &str) -> Vec<Mount> {
    let on_device = |fstype: &str| {
        filesystems.lines().any(|line| line.trim() == fstype && !line.starts_with("nodev"))
            && !IGNORED.contains(&fstype)
    };
    let mut mounts: Vec<Mount> = mountinfo.lines().filter_map(mount).collect();
    mounts.retain(|mount| on_device(&mount.fstype));
    mounts.sort_by(|one, other| (one.path.len(), &one.path).cmp(&(other.path.len(), &other.path)));
    let mut seen = std::collections::HashSet::new();
    mounts.retain(|mount| seen.insert(mount.device.clone()));
    mounts
}

/// The metric of one mount.
pub(super) fn metric(mount: &Mount, space: Space) -> Metric<'static> {
    let used = space.total_bytes.saturating_sub(space.free_bytes);
    let inodes_used = space.inodes_total.saturating_sub(space.inodes_free);
    let tags = [
        ("device", mount.device.as_str()),
        ("fstype", &mount.fstype),
        ("mode", if mount.read_only { "ro" } else { "rw" }),
        ("path", &mount.path),
    ];
    let fields = vec![
        ("free", FieldValue::Unsigned(space.available_bytes)),
        ("inodes_free", FieldValue::Unsigned(space.inodes_free)),
        ("inodes_total", FieldValue::Unsigned(space.inodes_total)),
        ("inodes_used", FieldValue::Unsigned(inodes_used)),
        ("inodes_used_percent", super::percent(inodes_used, space.inodes_total)),
        ("total", FieldValue::Unsigned(space.total_bytes)),
        ("used", FieldValue::Unsigned(used)),
        // As df has it: what is reserved for root counts neither as used nor as free.
        ("used_percent", super::percent(used, used + space.available_bytes)),
    ];
    super::metric("disk", &tags, fields)
}

/// `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw`
fn mount(line: &str) -> Option<Mount> {
    let (place, source) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(4);
    let (path, options) = (place.next()?, place.next()?);
    let mut source = source.split(' ');
    let (fstype, device) = (source.next()?, source.next()?);
    Some(Mount {
        device: unescape(device).trim_start_matches("/dev/").to_owned(),
        fstype: fstype.to_owned(),
        path: unescape(path),
        read_only: options.split(',').any(|option| option == "ro"),
    })
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(backslash) = rest.find('\\') {
        let digits = rest.get(backslash + 1..backslash + 4);
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        out.push_str(&rest[..backslash]);
        let length = match escaped {
            Some(byte) => {
                out.push(char::from(byte));
                4
            }
            None => {
                out.push('\\');
                1
            }
        };
        rest = &rest[backslash + length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::host::text;

    const FILESYSTEMS: &str = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\n\text4\n\tsquashfs\n";
    const MOUNTINFO: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime shared:2 - tmpfs tmpfs rw,size=24684092k
31 27 254:0 /etc/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw,discard
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard,resv_strict
40 27 254:16 / /mnt/my\\040disk ro,relatime master:1 - ext4 /dev/mapper/vg-data rw
41 27 7:0 / /snap/core ro,relatime - squashfs /dev/loop0 ro
";

    #[test]
    fn each_device_is_measured_once() {
        let mounts = mounts(MOUNTINFO, FILESYSTEMS);
        let paths: Vec<&str> = mounts.iter().map(|mount| mount.path.as_str()).collect();
        assert_eq!(paths, ["/", "/mnt/my disk"]);
        let space = Space {
            total_bytes: 1000,
            available_bytes: 300,
            free_bytes: 400,
            inodes_total: 100,
            inodes_free: 75,
        };
        let metrics: Vec<_> = mounts.iter().map(|mount| metric(mount, space)).collect();
        let fields = "free=300u,inodes_free=75u,inodes_total=100u,inodes_used=25u,inodes_used_percent=25.0,total=1000u,\
             used=600u,used_percent=66.66666666666666";
        assert_eq!(
            text(&metrics),
            format!(
                "disk,device=vda,fstype=ext4,mode=rw,path=/ {fields}\n\
                 disk,device=mapper/vg-data,fstype=ext4,mode=ro,path=/mnt/my\\ disk {fields}\n"
            )
        );
    }

    #[test]
    fn odd_lines_are_no_mounts() {
        assert_eq!(mounts("1 2 3\n\n- -\n", FILESYSTEMS), []);
        assert_eq!(unescape("a\\b\\0\\134\\\u{e9}\\777"), "a\\b\\0\\\\\u{e9}\\777");
    }
}
