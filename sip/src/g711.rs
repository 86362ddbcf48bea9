//! G.711: µ-law and A-law, eight bits for each sample at 8 kHz (ITU-T G.711, in the form of G.191's reference).

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Law {
    /// µ-law, payload type 0: North America and Japan.
    Mu,
    /// A-law, payload type 8: everywhere else.
    A,
}

/// Added to a magnitude before its segment is looked for.
const MU_BIAS: i32 = 0x84;
/// Largest magnitude of µ-law, of 16 bits.
const MU_CLIP: i32 = 32_635;

impl Law {
    pub(crate) fn encode(self, sample: i16) -> u8 {
        match self {
            Law::Mu => mu_encode(sample),
            Law::A => a_encode(sample),
        }
    }

    pub(crate) fn decode(self, code: u8) -> i16 {
        match self {
            Law::Mu => mu_decode(code),
            Law::A => a_decode(code),
        }
    }
}

fn mu_encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(MU_CLIP) + MU_BIAS;
    // The bias makes bit 7 the lowest that can be the highest.
    let exponent = 24 - magnitude.leading_zeros() as i32;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    !((sign | exponent << 4 | mantissa) as u8)
}

fn mu_decode(code: u8) -> i16 {
    let code = !code;
    let (exponent, mantissa) = (i32::from(code >> 4) & 7, i32::from(code & 0x0F));
    let magnitude = (((mantissa << 3) + MU_BIAS) << exponent) - MU_BIAS;
    (if code & 0x80 == 0 { magnitude } else { -magnitude }) as i16
}

fn a_encode(sample: i16) -> u8 {
    let (sign, magnitude) = if sample >= 0 { (0x80, i32::from(sample)) } else { (0, !i32::from(sample)) };
    let magnitude = magnitude >> 4;
    let code = if magnitude < 16 {
        magnitude
    } else {
        let exponent = 28 - magnitude.leading_zeros() as i32;
        (exponent << 4) + ((magnitude >> (exponent - 1)) & 0x0F)
    };
    (sign | code) as u8 ^ 0x55
}

fn a_decode(code: u8) -> i16 {
    let code = code ^ 0x55;
    let (exponent, mantissa) = (i32::from(code >> 4) & 7, i32::from(code & 0x0F));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    (if code & 0x80 == 0 { -magnitude } else { magnitude }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first value of each segment of ITU-T G.711, tables 1a and 2a, in 16 bits, and its character signal.
    #[test]
    fn segments_are_those_of_the_tables() {
        // A-law: value of the quantizing step, with even bits inverted as it is sent.
        let a = [(0, 8, 0xD5), (256, 264, 0xC5), (512, 528, 0xF5), (1024, 1056, 0xE5), (2048, 2112, 0x95)];
        for (sample, value, code) in
            a.into_iter().chain([(4096, 4224, 0x85), (8192, 8448, 0xB5), (16_384, 16_896, 0xA5)])
        {
            assert_eq!((Law::A.encode(sample), Law::A.decode(code)), (code, value), "A-law of {sample}");
        }
        assert_eq!((Law::A.encode(i16::MAX), Law::A.decode(0xAA)), (0xAA, 32_256));
        assert_eq!((Law::A.encode(i16::MIN), Law::A.decode(0x2A)), (0x2A, -32_256));
        // µ-law: 0, then 31, 95, 223, 479, 991, 2015, 4063 of 14 bits are the first decisions of the segments.
        let mu = [(0, 0, 0xFF), (4 * 31, 132, 0xEF), (4 * 95, 396, 0xDF), (4 * 223, 924, 0xCF), (4 * 479, 1980, 0xBF)];
        for (sample, value, code) in
            mu.into_iter().chain([(4 * 991, 4092, 0xAF), (4 * 2015, 8316, 0x9F), (4 * 4063, 16_764, 0x8F)])
        {
            assert_eq!((Law::Mu.encode(sample), Law::Mu.decode(code)), (code, value), "µ-law of {sample}");
        }
        assert_eq!((Law::Mu.encode(i16::MAX), Law::Mu.decode(0x80)), (0x80, 32_124));
        assert_eq!((Law::Mu.encode(i16::MIN), Law::Mu.decode(0x00)), (0x00, -32_124));
    }

    #[test]
    fn every_code_is_its_own_nearest() {
        for law in [Law::Mu, Law::A] {
            for code in 0..=255 {
                let again = law.encode(law.decode(code));
                // µ-law has two zeros.
                assert!(
                    again == code || (law == Law::Mu && code == 0x7F && again == 0xFF),
                    "{law:?} {code:#x} {again:#x}"
                );
            }
        }
    }

    /// A value lies within half a step of what it is decoded to: a thirty-first of it, with the bias of µ-law.
    #[test]
    fn the_error_is_small_beside_the_value() {
        for law in [Law::Mu, Law::A] {
            for sample in i16::MIN..=i16::MAX {
                let decoded = i32::from(law.decode(law.encode(sample)));
                let error = (decoded - i32::from(sample)).abs();
                assert!(error <= 16 || error * 31 <= i32::from(sample).abs() + MU_BIAS, "{law:?} {sample} {decoded}");
            }
        }
    }
}
