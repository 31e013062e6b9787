use proptest::prelude::*;

use super::*;

#[path = "../../tests/support/scram.rs"]
mod client;

/// The exchange of RFC 7677, section 3.
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const FINAL: &str =
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SIGNATURE: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    Verifier::derive("pencil", &BASE64.decode(SALT).unwrap(), 4096).unwrap()
}

fn verifiers() -> Verifiers {
    Verifiers::new([("user".to_owned(), pencil())]).unwrap()
}

/// The server's answers to these messages, with the nonce of the RFC.
fn converse(messages: &[&str]) -> Result<Answer, Refused> {
    let mut exchange = Exchange::with_nonce(SERVER_NONCE.into());
    let mut answer = Err(Refused::Message("nothing was said"));
    for message in messages {
        answer = Ok(exchange.take(&verifiers(), message.as_bytes())?);
    }
    answer
}

#[test]
fn the_example_of_rfc_7677() {
    assert_eq!(converse(&[FIRST]), Ok(Answer::Challenge(CHALLENGE.into())));
    let (user, last) = ("user".to_owned(), SIGNATURE.to_owned());
    assert_eq!(converse(&[FIRST, FINAL]), Ok(Answer::Done { user, last }));
}

#[test]
fn a_verifier_is_spelled_as_postgresql_spells_it() {
    let text = pencil().to_string();
    let keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    assert_eq!(text, format!("SCRAM-SHA-256$4096:{SALT}${keys}"));
    assert_eq!(Verifier::parse(&text), Ok(pencil()));
    let wrong = [
        ("", VerifierError::Shape),
        ("SCRAM-SHA-1$4096:AA==$AA==:AA==", VerifierError::Shape),
        ("SCRAM-SHA-256$4096:AA==$AA==", VerifierError::Shape),
        ("SCRAM-SHA-256$4096$AA==:AA==", VerifierError::Shape),
        ("SCRAM-SHA-256$4095:AA==$AA==:AA==", VerifierError::Iterations),
        ("SCRAM-SHA-256$many:AA==$AA==:AA==", VerifierError::Iterations),
        ("SCRAM-SHA-256$4096:$AA==:AA==", VerifierError::Salt),
        ("SCRAM-SHA-256$4096:!$AA==:AA==", VerifierError::Salt),
        ("SCRAM-SHA-256$4096:AA==$AA==:AA==", VerifierError::Key),
    ];
    for (text, error) in wrong {
        assert_eq!(Verifier::parse(text), Err(error), "{text}");
    }
    assert!(
        !format!("{:?}", pencil()).contains(keys),
        "nothing secret is printed by accident"
    );
}

#[test]
fn passwords_that_saslprep_might_change_are_refused() {
    for password in ["", "naïve", "tab\there", "\u{2168}"] {
        assert_eq!(
            Verifier::of(password, 4096),
            Err(VerifierError::Password),
            "{password:?}"
        );
    }
    assert_ne!(
        Verifier::of("a b~", 4096),
        Verifier::of("a b~", 4096),
        "each has its own salt"
    );
}

#[test]
fn a_lie_is_refused() {
    let wrong_proof = FINAL.replace("p=dHzb", "p=dHzc");
    assert_eq!(converse(&[FIRST, &wrong_proof]), Err(Refused::Denied));
    let last = [
        FINAL.replace("c=biws", "c=eSws"),
        FINAL.replace("r=rOpr", "r=rOpR"),
        FINAL.replace("FIlj)", "FIlj("),
        FINAL.replace(",p=", ",q="),
        FINAL[..FINAL.len() - 4].to_owned(),
        "e=other-error".to_owned(),
        String::new(),
    ];
    for last in last {
        let outcome = converse(&[FIRST, &last]);
        assert!(matches!(outcome, Err(Refused::Message(_))), "{last}: {outcome:?}");
    }
    let outcome = converse(&[FIRST, FINAL, FINAL]);
    assert!(matches!(outcome, Err(Refused::Message(_))), "once: {outcome:?}");
}

#[test]
fn a_first_message_that_asks_for_something_else_is_refused() {
    for first in [
        "p=tls-unique,,n=user,r=x",
        "n,a=admin,n=user,r=x",
        "n,,m=ext,n=user,r=x",
    ] {
        assert!(matches!(converse(&[first]), Err(Refused::Unsupported(_))), "{first}");
    }
    let wrong = [
        "",
        "n",
        "n,",
        "n,,",
        "n,,r=x",
        "n,,n=user",
        "n,,n=user,r=",
        "n,,n=,r=x",
        "n,,n=a=b,r=x",
        "x,,n=user,r=x",
    ];
    for first in wrong {
        assert!(matches!(converse(&[first]), Err(Refused::Message(_))), "{first}");
    }
    assert!(converse(&["y,,n=user,r=x,ext=1"]).is_ok());
    let long = format!("n,,n={},r=x", "u".repeat(SCRAM_MESSAGE_BYTES_MAX));
    assert!(matches!(converse(&[&long]), Err(Refused::Message(_))));
}

#[test]
fn who_does_not_exist_looks_like_anybody_and_gets_nowhere() {
    let salt = |name: &str| match converse(&[&format!("n,,n={name},r=x")]) {
        Ok(Answer::Challenge(challenge)) => challenge.split_once(",s=").unwrap().1.to_owned(),
        other => panic!("no challenge but {other:?}"),
    };
    assert_eq!(salt("nobody"), salt("nobody"), "as a salt that is kept");
    assert_ne!(salt("nobody"), salt("nobody2"));
    assert_eq!(salt("nobody").len(), salt("user").len());
    let mut exchange = Exchange::begin().unwrap();
    let Ok(Answer::Challenge(challenge)) = exchange.take(&verifiers(), b"n,,n=nobody,r=x") else {
        panic!("no challenge");
    };
    let (last, _) = client::last("pencil", "n,,", "n=nobody,r=x", &challenge);
    assert_eq!(exchange.take(&verifiers(), last.as_bytes()), Err(Refused::Denied));
}

fn escaped(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn who_knows_the_password_is_let_in_and_nobody_else(
        name in "[^\u{0}]{1,20}",
        password in "[ -~]{1,20}",
        other in "[ -~]{1,20}",
        nonce in "[!-+--~]{1,30}",
        iterations in 4096u32..4200,
    ) {
        let verifier = Verifier::of(&password, iterations).unwrap();
        prop_assert_eq!(&Verifier::parse(&verifier.to_string()).unwrap(), &verifier);
        let verifiers = Verifiers::new([(name.clone(), verifier)]).unwrap();
        let bare = format!("n={},r={nonce}", escaped(&name));
        for tried in [&password, &other] {
            let mut exchange = Exchange::begin().unwrap();
            let answer = exchange.take(&verifiers, format!("n,,{bare}").as_bytes());
            let Ok(Answer::Challenge(challenge)) = answer else { panic!("no challenge but {answer:?}") };
            let (message, expected) = client::last(tried, "n,,", &bare, &challenge);
            let answer = exchange.take(&verifiers, message.as_bytes());
            match tried == &password {
                true => prop_assert_eq!(answer, Ok(Answer::Done { user: name.clone(), last: expected })),
                false => prop_assert_eq!(answer, Err(Refused::Denied)),
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(first in any::<Vec<u8>>(), text in "[nypamcr=,0-9a-zA-Z+/é]{0,60}", last in any::<Vec<u8>>()) {
        for first in [&first[..], text.as_bytes(), FIRST.as_bytes()] {
            for last in [&last[..], text.as_bytes()] {
                let mut exchange = Exchange::begin().unwrap();
                let _ = exchange.take(&verifiers(), first);
                let done = matches!(exchange.take(&verifiers(), last), Ok(Answer::Done { .. }));
                prop_assert!(!done);
            }
        }
    }
}
