//! Networks of addresses (RFC 4632): `10.0.0.0/8`, `fd00::/8`, or one address.

use std::net::IpAddr;

use super::lists;

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u8>().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        let network = Self { address, bits };
        // Bits behind the network's own are a slip: `10.1.2.3/8` might be meant as one address.
        (bits <= most && network.first() == address).then_some(network)
    }

    /// The networks of a list; what is none is left out.
    pub fn list(text: &str) -> Vec<Self> {
        lists::items(text).filter_map(Self::parse).collect()
    }

    /// Whether `address` is one of it. An IPv4 address counts as itself however a socket spells it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }

    fn first(&self) -> IpAddr {
        masked(self.address, self.bits)
    }
}

/// The address with all but its first bits zero.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// A network as it is kept, or nothing if it is none.
pub(super) fn spelled(text: &str) -> Option<String> {
    Network::parse(text).is_some().then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_like_it() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::/0", "2001:db8::1", true),
        ] {
            let networks = Network::list(network);
            assert_eq!(networks[0].contains(address.parse().unwrap()), inside, "{address} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["10.0.0.0/33", "10.1.2.3/8", "proxy.example", "10.0.0.0/", "10.0.0.0/8 fd00::/8"] {
            assert_eq!(lists::normalise(text, spelled), None, "{text}");
        }
        assert_eq!(
            lists::normalise(" 10.0.0.0/8 , fd00::/8,", spelled).as_deref(),
            Some("10.0.0.0/8,fd00::/8")
        );
    }
}
