//! Where the running kernel keeps members of its structs: what its BTF (Documentation/bpf/btf.rst) says.
//!
//! aya reads BTF for relocations, and does not say where members are.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
/// Length of `struct btf_type` and of `struct btf_member`, octets.
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Most structs within one another that are looked into.
const MAX_DEPTH: u32 = 16;

/// The types of the kernel, in host byte order.
pub(super) struct Btf<'data> {
    strings: &'data [u8],
    /// By type number; the first is `void`, which has none.
    types: Vec<&'data [u8]>,
    structs: HashMap<&'data str, u32>,
}

impl<'data> Btf<'data> {
    /// Reads what the file holds; `None` if that makes no sense, or is of the other byte order.
    pub(super) fn parse(data: &'data [u8]) -> Option<Self> {
        if half(data, 0)? != MAGIC {
            return None;
        }
        let body = data.get(word(data, 4)? as usize..)?;
        let section = |at| {
            let start = word(data, at)? as usize;
            body.get(start..start.checked_add(word(data, at + 4)? as usize)?)
        };
        let mut btf = Self { strings: section(16)?, types: vec![&[]], structs: HashMap::new() };
        let mut rest = section(8)?;
        while !rest.is_empty() {
            let info = word(rest, 4)?;
            let (definition, next) = rest.split_at_checked(TYPE_LEN + trailer_len(info))?;
            let name = btf.name(word(definition, 0)?)?;
            if kind(info) == KIND_STRUCT && !name.is_empty() {
                btf.structs.entry(name).or_insert(btf.types.len() as u32);
            }
            btf.types.push(definition);
            rest = next;
        }
        Some(btf)
    }

    /// Where a member lies, bits from the beginning of the struct. `path` names it, `outer.inner` where structs
    /// are within one another; those without a name are looked into.
    pub(super) fn bit_offset(&self, of: &str, path: &str) -> Option<u32> {
        let mut number = *self.structs.get(of)?;
        let mut offset = 0;
        for name in path.split('.') {
            let member = self.member(number, name, MAX_DEPTH)?;
            offset += member.0;
            number = member.1;
        }
        Some(offset)
    }

    /// Offset in bits and type of a member.
    fn member(&self, of: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let definition = self.without_modifiers(of)?;
        let info = word(definition, 4)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) || depth == 0 {
            return None;
        }
        let has_bit_fields = info >> 31 != 0;
        definition[TYPE_LEN..].chunks_exact(MEMBER_LEN).find_map(|member| {
            let (its_name, number) = (self.name(word(member, 0)?)?, word(member, 4)?);
            let offset = word(member, 8)? & if has_bit_fields { 0x00ff_ffff } else { u32::MAX };
            if its_name == name {
                return Some((offset, number));
            }
            let (inner, number) =
                its_name.is_empty().then(|| self.member(number, name, depth - 1)).flatten()?;
            Some((offset + inner, number))
        })
    }

    fn without_modifiers(&self, number: u32) -> Option<&'data [u8]> {
        let mut definition = *self.types.get(number as usize)?;
        for _ in 0..MAX_DEPTH {
            match kind(word(definition, 4)?) {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    definition = self.types.get(word(definition, 8)? as usize)?;
                }
                _ => return Some(definition),
            }
        }
        None
    }

    fn name(&self, at: u32) -> Option<&'data str> {
        let text = self.strings.get(at as usize..)?;
        let len = text.iter().position(|&octet| octet == 0)?;
        std::str::from_utf8(&text[..len]).ok()
    }
}

/// Octets that follow a type's `struct btf_type`.
fn trailer_len(info: u32) -> usize {
    let count = (info & 0xffff) as usize;
    match kind(info) {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
        _ => 0,
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn half(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { u32 a; const struct { u32 b; struct inner c; }; }`, `struct inner { u32 d; u32 e : 4; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0u32\0inner\0outer\0a\0b\0c\0d\0e\0";
        let name = |name: &str| {
            let zeroed = [b"\0", name.as_bytes(), b"\0"].concat();
            strings.windows(zeroed.len()).position(|at| at == zeroed).unwrap() as u32 + 1
        };
        let structure = |count: u32, bit_fields: u32| bit_fields << 31 | KIND_STRUCT << 24 | count;
        let types = [
            vec![name("u32"), KIND_INT << 24, 4, 32],
            vec![name("inner"), structure(2, 1), 8, name("d"), 1, 0, name("e"), 1, 4 << 24 | 36],
            vec![0, structure(2, 0), 12, name("b"), 1, 0, name("c"), 2, 32],
            vec![0, KIND_CONST << 24, 3],
            vec![name("outer"), structure(2, 0), 16, name("a"), 1, 0, 0, 4, 32],
        ];
        let types: Vec<u8> = types.concat().into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut data = [MAGIC.to_ne_bytes(), [1, 0]].concat();
        for field in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend(field.to_ne_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_in_structs_without_a_name_and_by_a_path_through_those_with_one() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.bit_offset("outer", "a"), Some(0));
        assert_eq!(btf.bit_offset("outer", "b"), Some(32));
        assert_eq!(btf.bit_offset("outer", "c.d"), Some(64));
        assert_eq!(btf.bit_offset("outer", "c.e"), Some(100));
        assert_eq!(btf.bit_offset("inner", "e"), Some(36));
        for (structure, path) in [("outer", "d"), ("outer", "a.d"), ("other", "a")] {
            assert_eq!(btf.bit_offset(structure, path), None, "{structure}.{path}");
        }
    }

    #[test]
    fn what_is_cut_off_or_no_btf_is_nothing() {
        let data = sample();
        for len in 0..data.len() {
            assert!(Btf::parse(&data[..len]).is_none(), "{len}");
        }
        let mut other_order = data;
        other_order.swap(0, 1);
        assert!(Btf::parse(&other_order).is_none());
    }
}
