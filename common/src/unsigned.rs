//! Which segments go without a MAC while a neighbour is taken into protection (`accept-until-authenticated`).
//!
//! Each side begins to sign when it is told to, or when a segment of the other has verified. Unsigned segments are
//! accepted in a connection that was up before, until one verifies in it; and without a session, where connections
//! come and go as before, until one of the neighbour's has verified at all. After that they never are again.
//!
//! A SYN opens a connection, also where the session of an earlier one with the same ends is left.

use crate::{
    key_choice::flag,
    layout::{Policy, Session},
};

/// Whether a segment of our end leaves without the option. `tcp_flags` are the segment's; `authenticated`: a segment
/// of the neighbour has verified, in whichever connection.
#[inline(always)]
pub const fn leaves(session: Option<&Session>, policy: &Policy, tcp_flags: u8, authenticated: bool) -> bool {
    let is_told = policy.flags & Policy::SIGN != 0;
    let may = arrives(session, policy, tcp_flags, authenticated);
    may && (session.is_none() || is_syn(tcp_flags) || !is_told)
}

/// Whether a segment of the peer is accepted without the option. `tcp_flags` and `authenticated` as of [`leaves`].
#[inline(always)]
pub const fn arrives(session: Option<&Session>, policy: &Policy, tcp_flags: u8, authenticated: bool) -> bool {
    if policy.flags & Policy::ACCEPT_UNSIGNED == 0 {
        return false;
    }
    let is_refused_anew = is_syn(tcp_flags) && authenticated;
    match session {
        Some(session) => {
            session.flags & Session::ADOPTED != 0 && session.authenticated == 0 && !is_refused_anew
        }
        None => !authenticated,
    }
}

#[inline(always)]
const fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & flag::SYN != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves and what arrives without the option, but SYNs.
    fn unsigned(session: Option<&Session>, flags: u8, authenticated: bool) -> (bool, bool) {
        unsigned_with(flag::ACK, session, flags, authenticated)
    }

    fn unsigned_with(
        tcp_flags: u8,
        session: Option<&Session>,
        flags: u8,
        authenticated: bool,
    ) -> (bool, bool) {
        let policy = Policy { flags, ..Policy::default() };
        let leaves = leaves(session, &policy, tcp_flags, authenticated);
        (leaves, arrives(session, &policy, tcp_flags, authenticated))
    }

    const ACCEPT: u8 = Policy::ACCEPT_UNSIGNED;
    const TOLD: u8 = Policy::ACCEPT_UNSIGNED | Policy::SIGN;

    #[test]
    fn an_adopted_session_signs_when_told_and_refuses_from_the_first_that_verifies() {
        for of_neighbor in [false, true] {
            let adopted = Session { flags: Session::ADOPTED, ..Session::default() };
            assert_eq!(unsigned(Some(&adopted), ACCEPT, of_neighbor), (true, true));
            assert_eq!(unsigned(Some(&adopted), TOLD, of_neighbor), (false, true));
            let authenticated = Session { authenticated: 1, ..adopted };
            for flags in [ACCEPT, TOLD] {
                assert_eq!(unsigned(Some(&authenticated), flags, of_neighbor), (false, false));
            }
        }
    }

    #[test]
    fn without_a_session_all_is_as_before_until_the_neighbour_has_authenticated() {
        for flags in [ACCEPT, TOLD] {
            assert_eq!(unsigned(None, flags, false), (true, true));
            assert_eq!(unsigned(None, flags, true), (false, false));
        }
    }

    #[test]
    fn a_syn_is_of_a_new_connection_whatever_session_has_its_ends() {
        let adopted = Session { flags: Session::ADOPTED, ..Session::default() };
        for tcp_flags in [flag::SYN, flag::SYN | flag::ACK] {
            for flags in [ACCEPT, TOLD] {
                for session in [None, Some(&adopted)] {
                    assert_eq!(unsigned_with(tcp_flags, session, flags, false), (true, true));
                    assert_eq!(unsigned_with(tcp_flags, session, flags, true), (false, false));
                }
                let signed = Some(&Session::default());
                assert_eq!(unsigned_with(tcp_flags, signed, flags, false), (false, false));
            }
        }
    }

    #[test]
    fn nothing_is_unsigned_in_a_session_that_began_signed_or_in_any_other_mode() {
        let adopted = Session { flags: Session::ADOPTED, ..Session::default() };
        for authenticated in [false, true] {
            for flags in [ACCEPT, TOLD] {
                assert_eq!(unsigned(Some(&Session::default()), flags, authenticated), (false, false));
            }
            for flags in [0, Policy::SIGN, Policy::TCP_MD5] {
                assert_eq!(unsigned(Some(&adopted), flags, authenticated), (false, false));
                assert_eq!(unsigned(None, flags, authenticated), (false, false));
            }
        }
    }
}
