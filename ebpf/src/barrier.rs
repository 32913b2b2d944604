//! What keeps the compiler from outsmarting the verifier.

/// `value`, of which the compiler knows nothing any more: a bound checked afterwards stays in the program,
/// where the verifier needs to see it, even if the compiler could prove it.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&raw const value) }
}

/// A field of the context. The kernel rewrites each access, so the compiler must not compute with the field's
/// address instead.
macro_rules! skb_field {
    ($skb:expr, $field:ident) => {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { core::ptr::read_volatile(&raw const (*$skb).$field) }
    };
}
pub(crate) use skb_field;
