//! The macro that makes records of their declaration: structs, codec, size assertions and layout text.

/// Declares the records of one direction: an enum of structs, its codec, its size assertions and its layout text.
macro_rules! records {
    ($(#[$doc:meta])* $set:ident, $layout:ident {
        $($(#[$rdoc:meta])* $name:ident = $tag:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)? })*
    }) => {
        $(
            $(#[$rdoc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }

            impl $name {
                const SIZE: usize = 2 $(+ <$ty as Field>::SIZE)*;
            }
            const _: () = assert!($name::SIZE <= RECORD_LEN, concat!(stringify!($name), " does not fit a record"));
        )*

        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $set { $($(#[$rdoc])* $name($name)),* }

        $(impl From<$name> for $set {
            fn from(record: $name) -> Self { $set::$name(record) }
        })*

        impl $set {
            /// The record as it lies in a ring: tag (u16), fields in order, zeros.
            pub fn write(&self) -> Record {
                let mut out = [0u8; RECORD_LEN];
                match self {
                    $($set::$name(_r) => {
                        u16::write(&$tag, &mut out[..2]);
                        let mut _at = 2;
                        $(
                            let end = _at + <$ty as Field>::SIZE;
                            <$ty as Field>::write(&_r.$field, &mut out[_at..end]);
                            _at = end;
                        )*
                    })*
                }
                out
            }

            /// Reads a record that another process wrote; `None` unless the tag and every field are valid.
            pub fn read(record: &Record) -> Option<Self> {
                match u16::read(&record[..2])? {
                    $($tag => {
                        let mut _at = 2;
                        $(
                            let end = _at + <$ty as Field>::SIZE;
                            let $field = <$ty as Field>::read(&record[_at..end])?;
                            _at = end;
                        )*
                        Some($set::$name($name { $($field),* }))
                    })*
                    _ => None,
                }
            }

            /// The tag that names the record's kind.
            pub const fn tag(&self) -> u16 {
                match self { $($set::$name(_) => $tag),* }
            }
        }

        pub(super) const $layout: &str = concat!($(stringify!($name), "=", stringify!($tag), "{", $(stringify!($field), ":", stringify!($ty), ",",)* "}"),*);
    };
}
pub(super) use records;
