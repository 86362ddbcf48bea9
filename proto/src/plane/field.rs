//! How a value is written into a record and read from it: integers, ids, addresses, and enums of one byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::{MID_LEN_MAX, Mid, PeerId, RelayId, RouteId, SlotId, Ssrc, StreamId, TapId};

/// A value with a fixed wire size inside a record.
pub(super) trait Field: Sized {
    const SIZE: usize;
    fn write(&self, out: &mut [u8]);
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! int_field {
    ($($t:ty),*) => {$(
        impl Field for $t {
            const SIZE: usize = size_of::<$t>();
            fn write(&self, out: &mut [u8]) { out.copy_from_slice(&self.to_le_bytes()); }
            fn read(bytes: &[u8]) -> Option<Self> { Some(<$t>::from_le_bytes(bytes.try_into().ok()?)) }
        }
    )*};
}
int_field!(u8, u16, u32, u64);

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;
    fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl<const N: usize> Field for [Ssrc; N] {
    const SIZE: usize = 4 * N;
    fn write(&self, out: &mut [u8]) {
        out.chunks_exact_mut(4).zip(self).for_each(|(place, number)| number.write(place));
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut numbers = [0; N];
        for (number, place) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
            *number = u32::read(place)?;
        }
        Some(numbers)
    }
}

macro_rules! id_field {
    ($($t:ty),*) => {$(
        impl Field for $t {
            const SIZE: usize = 8;
            fn write(&self, out: &mut [u8]) {
                out[..4].copy_from_slice(&self.index.to_le_bytes());
                out[4..].copy_from_slice(&self.generation.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                let id = Self::new(u32::read(&bytes[..4])?, u32::read(&bytes[4..])?);
                (id.generation != 0).then_some(id)
            }
        }
    )*};
}
id_field!(PeerId, StreamId, SlotId, RouteId, TapId, RelayId);

impl Field for Mid {
    const SIZE: usize = MID_LEN_MAX;
    fn write(&self, out: &mut [u8]) {
        out.fill(0);
        out[..self.as_bytes().len()].copy_from_slice(self.as_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        if bytes[len..].iter().any(|&b| b != 0) {
            return None;
        }
        Mid::parse(&bytes[..len])
    }
}

impl Field for SocketAddr {
    const SIZE: usize = 19;
    fn write(&self, out: &mut [u8]) {
        out.fill(0);
        match self.ip() {
            IpAddr::V4(ip) => {
                out[0] = 4;
                out[1..5].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out[0] = 6;
                out[1..17].copy_from_slice(&ip.octets());
            }
        }
        out[17..].copy_from_slice(&self.port().to_le_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let ip = match bytes[0] {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::read(&bytes[1..5])?)),
            6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::read(&bytes[1..17])?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::read(&bytes[17..19])?))
    }
}

/// Declares a byte-sized enum with a checked reader.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $value),* }

        impl Field for $name {
            const SIZE: usize = 1;
            fn write(&self, out: &mut [u8]) { out[0] = *self as u8; }
            fn read(bytes: &[u8]) -> Option<Self> {
                match bytes[0] { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}
pub(super) use wire_enum;
