//! Which sleep states a board has: none but S5, which is off. Users may say so.

use qapi::Error;
use qom::{Object, Property};

/// The properties `disable_s3` and `disable_s4`: they read 1, and 0 is refused.
pub(crate) fn properties<T: Object>() -> [Property; 2] {
    [("disable_s3", "S3"), ("disable_s4", "S4")].map(|(name, state)| {
        Property::new(name, "uint8").default(1u64).get(|_: &T| Ok(1u64.into())).set(
            move |_: &T, value, name| {
                if value.to_uint(name, 8)? == 0 {
                    let text = format!("the board has no sleep state {state}, so '{name}' cannot be 0");
                    return Err(Error::generic(text));
                }
                Ok(())
            },
        )
    })
}
