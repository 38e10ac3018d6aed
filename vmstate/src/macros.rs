//! The declaration of state.

/// Declares a struct of saved state and implements [`VmState`](crate::VmState) and [`Field`](crate::Field) for it.
///
/// ```
/// # use vmstate::vmstate;
/// vmstate! {
///     /// Bytes that wait.
///     pub struct Fifo: "uart/fifo", version 1 {
///         bytes: Vec<u8>,
///     }
/// }
/// vmstate! {
///     /// A serial port.
///     pub struct Uart: "uart", version 3, oldest 2 {
///         divider: u16,
///         /// In older streams there is none, and 0 is loaded.
///         scratch: u8 [since 3 else 0],
///     }
///     subsections {
///         /// Only if there are any.
///         fifo: Fifo,
///     }
/// }
/// let plain = Uart { divider: 12, scratch: 0, fifo: None };
/// assert_eq!(<Uart as vmstate::VmState>::declared().subsections[0].name, "uart/fifo");
/// # let _ = plain;
/// ```
///
/// All fields are public. A subsection is an `Option` field; its name is that of the struct, a slash, and one of its own. A stream without it gives `None`,
/// so that new state can be added without a new version as long as it is at its default.
#[macro_export]
macro_rules! vmstate {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident: $id:literal, version $version:literal $(, oldest $oldest:literal)? {
            $(
                $(#[$doc:meta])*
                $field:ident: $type:ty $([since $since:literal else $default:expr])?
            ),* $(,)?
        }
        $(subsections {
            $( $(#[$sdoc:meta])* $sub:ident: $stype:ty ),* $(,)?
        })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $( $(#[$doc])* pub $field: $type, )*
            $($( $(#[$sdoc])* pub $sub: Option<$stype>, )*)?
        }

        impl $crate::VmState for $name {
            const NAME: &'static str = $id;
            const VERSION: u32 = $version;
            const OLDEST: u32 = $crate::vmstate!(@oldest $version $($oldest)?);

            fn put_fields(&self, out: &mut $crate::Encoder) {
                let Self { $($field,)* $($($sub,)*)? } = self;
                $( $crate::Field::put($field, stringify!($field), out); )*
                $($(
                    if let Some(state) = $sub {
                        out.subsection(
                            <$stype as $crate::VmState>::NAME,
                            <$stype as $crate::VmState>::VERSION,
                            |out| $crate::VmState::put_fields(state, out),
                        );
                    }
                )*)?
                let _ = out;
            }

            fn get_versioned(input: &mut $crate::Decoder<'_>, version: u32) -> $crate::Result<Self> {
                $crate::check_version::<Self>(version)?;
                $(
                    let $field = $crate::vmstate!(
                        @load $id, $field, $type, input $(, version, $since, $default)?
                    );
                )*
                $(
                    $( let mut $sub = None; )*
                    while let Some((found, version)) = input.subsection_of($id)? {
                        $(
                            if <$stype as $crate::VmState>::NAME.strip_prefix(concat!($id, "/")) == Some(&*found) {
                                $sub = Some(<$stype as $crate::VmState>::get_versioned(input, version)?);
                                continue;
                            }
                        )*
                        return Err($crate::LoadError::new(
                            $crate::Errno::NotFound,
                            format!("Unknown subsection '{}/{found}' of '{}'", $id, $id),
                        ));
                    }
                )?
                let _ = (&input, version);
                Ok(Self { $($field,)* $($($sub,)*)? })
            }

            fn declared() -> $crate::StateShape {
                $crate::StateShape {
                    name: $id,
                    version: $version,
                    oldest: <Self as $crate::VmState>::OLDEST,
                    fields: vec![$(
                        $crate::FieldShape {
                            name: stringify!($field),
                            shape: <$type as $crate::Field>::shape(),
                            since: $crate::vmstate!(@since 0 $($since)?),
                        },
                    )*],
                    subsections: vec![$($( <$stype as $crate::VmState>::declared(), )*)?],
                }
            }
        }

        impl $crate::Field for $name {
            fn put(&self, name: &'static str, out: &mut $crate::Encoder) {
                $crate::put_struct(self, name, None, out);
            }

            fn get(input: &mut $crate::Decoder<'_>) -> $crate::Result<Self> {
                // Inside another struct there is no version: the outer one's is raised when this one changes.
                <Self as $crate::VmState>::get_versioned(input, $version)
            }

            fn shape() -> $crate::Shape {
                $crate::Shape::Struct(<Self as $crate::VmState>::declared())
            }

            fn put_all(all: &[Self], name: &'static str, out: &mut $crate::Encoder) {
                for (index, one) in all.iter().enumerate() {
                    $crate::put_struct(one, name, Some(index), out);
                }
            }
        }
    };
    (@oldest $version:literal) => { $version };
    (@oldest $version:literal $oldest:literal) => { $oldest };
    (@since $zero:literal) => { $zero };
    (@since $zero:literal $since:literal) => { $since };
    (@load $id:literal, $field:ident, $type:ty, $input:ident) => {
        <$type as $crate::Field>::get($input).map_err(|error| error.in_field($id, stringify!($field)))?
    };
    (@load $id:literal, $field:ident, $type:ty, $input:ident, $version:ident, $since:literal, $default:expr) => {
        if $version >= $since { $crate::vmstate!(@load $id, $field, $type, $input) } else { $default }
    };
}
