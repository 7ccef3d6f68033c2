//! `net`: `/proc/net/dev`, one metric per interface.

use crate::proto::metric::{FieldValue, Metric};

/// Telegraf's counters and their columns after the interface's name (proc_net_dev(5)).
const COUNTERS: &[(&str, usize)] = &[
    ("bytes_recv", 0),
    ("bytes_sent", 8),
    ("drop_in", 3),
    ("drop_out", 11),
    ("err_in", 2),
    ("err_out", 10),
    ("packets_recv", 1),
    ("packets_sent", 9),
];

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// What `/sys/class/net/<interface>` says besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interface {
    /// Of netdevice(7).
    pub(super) flags: u32,
    /// In Mbit/s; -1 where there is no such thing.
    pub(super) speed: i64,
}

/// Interfaces that are up, without loopback, as Telegraf takes them by default.
pub(super) fn read(dev: &str, interface: impl Fn(&str) -> Option<Interface>) -> Vec<Metric<'static>> {
    dev.lines()
        .filter_map(|line| {
            // A number may follow the colon without a space; the name of an alias may hold a colon.
            let (name, columns) = line.rsplit_once(':')?;
            let name = name.trim();
            let columns: Vec<u64> =
                columns.split_ascii_whitespace().map(|column| column.parse().ok()).collect::<Option<_>>()?;
            let about = interface(name)?;
            let counted = about.flags & IFF_UP != 0 && about.flags & IFF_LOOPBACK == 0;
            let mut fields = COUNTERS
                .iter()
                .map(|(field, column)| Some((*field, FieldValue::Unsigned(*columns.get(*column)?))))
                .collect::<Option<Vec<_>>>()
                .filter(|_| counted)?;
            fields.push(("speed", FieldValue::Integer(about.speed)));
            Some(super::metric("net", &[("interface", name)], fields))
        })
        .collect()
}

/// `/sys/class/net/<interface>/flags`, hexadecimal.
pub(super) fn flags(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::host::text;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  ifb0:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0:249881723   15669    1    2    0     0          0         0  1241100   10695    3    4    0     0       0          0
";

    #[test]
    fn interfaces_that_are_up_are_measured() {
        let interface = |name: &str| match name {
            "lo" => Some(Interface { flags: 0x9, speed: -1 }),
            "ifb0" => Some(Interface { flags: 0x82, speed: -1 }),
            "eth0" => Some(Interface { flags: 0x1003, speed: 1000 }),
            other => panic!("{other} is no interface"),
        };
        assert_eq!(
            text(&read(DEV, interface)),
            "net,interface=eth0 bytes_recv=249881723u,bytes_sent=1241100u,drop_in=2u,drop_out=4u,err_in=1u,err_out=3u,\
             packets_recv=15669u,packets_sent=10695u,speed=1000i\n"
        );
    }

    #[test]
    fn flags_are_hexadecimal() {
        assert_eq!(flags("0x1003\n"), Some(0x1003));
        assert_eq!(flags("up"), None);
    }
}
