//! What keeps the compiler from outsmarting the verifier.

/// `value`, of which the compiler knows nothing any more: a bound checked afterwards stays in the program,
/// where the verifier needs to see it, even if the compiler could prove it.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&raw const value) }
}

/// `value` if it is from `least` to `most`, in a register of which every verifier knows both bounds: LLVM compares
/// `value - least` instead, and verifiers before Linux 7.0 do not see what that says of `value`; those before 6.8 learn
/// nothing from a comparison with 0.
#[inline(always)]
pub fn within<const LEAST: i32, const MOST: i32>(value: u32) -> Option<u32> {
    let above = less::<LEAST>(u64::from(value));
    if above > (MOST - LEAST) as u64 { None } else { Some(more::<LEAST>(above) as u32) }
}

/// `value - BY`, of which the compiler knows nothing.
#[inline(always)]
fn less<const BY: i32>(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: an addition. Not `pure`, so that it stays on its side of the comparison.
        unsafe {
            core::arch::asm!("{0} -= {1}", inout(reg) value, const BY, options(nomem, preserves_flags, nostack))
        };
        value
    };
    #[cfg(not(target_arch = "bpf"))]
    let value = value.wrapping_sub(BY as u64);
    value
}

/// `value + BY`, of which the compiler knows nothing.
#[inline(always)]
fn more<const BY: i32>(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: an addition. Not `pure`, so that it stays on its side of the comparison.
        unsafe {
            core::arch::asm!("{0} += {1}", inout(reg) value, const BY, options(nomem, preserves_flags, nostack))
        };
        value
    };
    #[cfg(not(target_arch = "bpf"))]
    let value = value.wrapping_add(BY as u64);
    value
}

/// A field of the context. The kernel rewrites each access, so the compiler must not compute with the field's
/// address instead.
macro_rules! skb_field {
    ($skb:expr, $field:ident) => {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { core::ptr::read_volatile(&raw const (*$skb).$field) }
    };
}

/// Sets a field of the context; see [`skb_field`].
macro_rules! set_skb_field {
    ($skb:expr, $field:ident, $value:expr) => {{
        let value = $value;
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { core::ptr::write_volatile(&raw mut (*$skb).$field, value) }
    }};
}
pub(crate) use {set_skb_field, skb_field};
