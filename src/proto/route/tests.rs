//! The table against a list of the expressions that Starlette compiles, tried in order.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

fn spec(id: u32, path: &str, methods: &[&str]) -> RouteSpec {
    RouteSpec {
        id,
        path: path.to_owned(),
        methods: methods.iter().map(|&m| m.to_owned()).collect(),
    }
}

fn table(specs: &[(&str, &[&str])]) -> Routes {
    let specs = (0..).zip(specs).map(|(id, (path, methods))| spec(id, path, methods)).collect();
    Routes::new(specs, true).expect("valid")
}

/// A table of GET routes.
fn gets(paths: &[&str]) -> Routes {
    let specs = (0..).zip(paths).map(|(id, path)| spec(id, path, &["GET"])).collect();
    Routes::new(specs, true).expect("valid")
}

fn find(routes: &Routes, method: Method, path: &str) -> (Found, Vec<String>) {
    let mut params = vec![Span::default()];
    let name =
        KNOWN.iter().find(|(known, _)| *known == method).map_or("PROPFIND", |(_, name)| name);
    let found = routes.find(method, name.as_bytes(), path.as_bytes(), &mut params);
    let params = params
        .iter()
        .map(|p| String::from_utf8_lossy(p.of(path.as_bytes()).expect("inside")).into_owned());
    (found, params.collect())
}

#[track_caller]
fn goes_to(routes: &Routes, path: &str, id: u32, params: &[&str]) {
    let (found, values) = find(routes, Method::Get, path);
    assert_eq!(found, Found::Route { id }, "{path}");
    assert_eq!(values, params, "{path}");
}

#[test]
fn parameters_are_whole_segments() {
    let routes = gets(&["/", "/user/{user_id}", "/user/{a}/posts/{b}"]);
    goes_to(&routes, "/", 0, &[]);
    goes_to(&routes, "/user/5", 1, &["5"]);
    goes_to(&routes, "/user/a b\u{e9}\n", 1, &["a b\u{e9}\n"]);
    goes_to(&routes, "/user/5/posts/6", 2, &["5", "6"]);
    assert_eq!(find(&routes, Method::Get, "/user//posts/6").0, Found::NotFound);
    assert_eq!(find(&routes, Method::Get, "/users/5").0, Found::NotFound);
}

#[test]
fn the_first_declared_wins_and_not_the_most_specific() {
    goes_to(&gets(&["/user/{id}", "/user/me"]), "/user/me", 0, &["me"]);
    goes_to(&gets(&["/user/me", "/user/{id}"]), "/user/me", 0, &[]);
    goes_to(&gets(&["/{p:path}", "/user/me"]), "/user/me", 0, &["user/me"]);
    goes_to(&gets(&["/{a}/me", "/user/{b}"]), "/user/me", 0, &["user"]);
    goes_to(&gets(&["/a/{x}.txt", "/a/{y}"]), "/a/b.txt", 0, &["b"]);
    goes_to(&gets(&["/a/{y}", "/a/{x}.txt"]), "/a/b.txt", 0, &["b.txt"]);
}

#[test]
fn typed_parameters_narrow_a_match() {
    let routes = gets(&["/{i:int}", "/{f:float}", "/{u:uuid}", "/{s:str}"]);
    goes_to(&routes, "/12", 0, &["12"]);
    goes_to(&routes, "/1.5", 1, &["1.5"]);
    goes_to(&routes, "/1.", 3, &["1."]);
    goes_to(&routes, "/-1", 3, &["-1"]);
    let uuid = "123e4567-e89b-12d3-a456-426614174000";
    goes_to(&routes, &format!("/{uuid}"), 2, &[uuid]);
    goes_to(
        &routes,
        &format!("/{}", uuid.replace('-', "").to_uppercase()),
        2,
        &[&uuid.replace('-', "").to_uppercase()],
    );
    goes_to(&routes, &format!("/{uuid}0"), 3, &[&format!("{uuid}0")]);
}

#[test]
fn a_typed_parameter_does_not_hide_what_its_shape_covers() {
    // "/u/me" has the shape of the first, but the second is the one that matches.
    goes_to(&gets(&["/u/{id:int}", "/{a}/me"]), "/u/me", 1, &["u"]);
}

#[test]
fn path_parameters_take_the_rest_and_may_be_empty() {
    let routes = gets(&["/files/{p:path}", "/raw{p:path}", "/x/{p:path}/end"]);
    goes_to(&routes, "/files/a/b", 0, &["a/b"]);
    goes_to(&routes, "/files/", 0, &[""]);
    goes_to(&routes, "/raw", 1, &[""]);
    goes_to(&routes, "/raw/a", 1, &["/a"]);
    goes_to(&routes, "/x/a/b/end", 2, &["a/b"]);
    goes_to(&routes, "/x//end", 2, &[""]);
    // Starlette's dot stops at a newline.
    assert_eq!(find(&routes, Method::Get, "/files/a\nb").0, Found::NotFound);
}

#[test]
fn several_parameters_share_a_segment_greedily() {
    let routes = gets(&["/{a}-{b}", "/f/{name}.{ext}"]);
    goes_to(&routes, "/1-2-3", 0, &["1-2", "3"]);
    goes_to(&routes, "/f/a.tar.gz", 1, &["a.tar", "gz"]);
}

#[test]
fn braces_that_are_no_parameter_are_literal() {
    let routes = gets(&["/{1}", "/a{", "/}b", "/{d e}", "/{{c}"]);
    goes_to(&routes, "/{1}", 0, &[]);
    goes_to(&routes, "/a{", 1, &[]);
    goes_to(&routes, "/}b", 2, &[]);
    goes_to(&routes, "/{d e}", 3, &[]);
    goes_to(&routes, "/{x", 4, &["x"]);
}

#[test]
fn routes_of_one_shape_stay_together_where_the_tree_has_no_room_for_it() {
    // Found by the property test below: matchit takes no `/{*p}` beside `/{p}`.
    let routes = table(&[("/{a}", &["GET"]), ("/{b:path}", &["GET"]), ("/{c:path}", &["POST"])]);
    assert_eq!(find(&routes, Method::Post, "/a/a").0, Found::Route { id: 2 });
    let allow = "GET, HEAD, OPTIONS, POST".to_owned();
    assert_eq!(find(&routes, Method::Put, "/a/a").0, Found::MethodNotAllowed { allow });
}

#[test]
fn another_route_may_take_the_method() {
    let routes =
        table(&[("/a/{x}", &["POST"]), ("/a/{y}", &["get"]), ("/a/b", &["DELETE", "PROPFIND"])]);
    assert_eq!(find(&routes, Method::Post, "/a/b").0, Found::Route { id: 0 });
    assert_eq!(find(&routes, Method::Get, "/a/b").0, Found::Route { id: 1 });
    assert_eq!(find(&routes, Method::Head, "/a/b").0, Found::Route { id: 1 });
    assert_eq!(find(&routes, Method::Delete, "/a/b").0, Found::Route { id: 2 });
    assert_eq!(find(&routes, Method::Other, "/a/b").0, Found::Route { id: 2 });
    let allow = "DELETE, GET, HEAD, OPTIONS, POST, PROPFIND".to_owned();
    assert_eq!(find(&routes, Method::Put, "/a/b").0, Found::MethodNotAllowed { allow });
    let allow = "GET, HEAD, OPTIONS, POST".to_owned();
    assert_eq!(find(&routes, Method::Options, "/a/c").0, Found::Options { allow });
    assert_eq!(find(&routes, Method::Other, "/c").0, Found::NotFound);
}

#[test]
fn declared_options_win_over_ours() {
    let routes = table(&[("/a", &["GET"]), ("/{x}", &["OPTIONS"])]);
    assert_eq!(find(&routes, Method::Options, "/a").0, Found::Route { id: 1 });
}

#[test]
fn options_of_the_server_are_those_of_all_routes() {
    let routes = table(&[("/a", &["GET"]), ("/b", &["POST"])]);
    let allow = "GET, HEAD, OPTIONS, POST".to_owned();
    assert_eq!(find(&routes, Method::Options, "*").0, Found::Options { allow });
    assert_eq!(find(&routes, Method::Get, "*").0, Found::NotFound);
}

#[test]
fn a_route_without_methods_takes_all() {
    let routes = table(&[("/a", &["GET"]), ("/{p:path}", &[])]);
    for method in [Method::Post, Method::Options, Method::Other, Method::Trace] {
        assert_eq!(find(&routes, method, "/a").0, Found::Route { id: 1 });
    }
    assert_eq!(find(&routes, Method::Head, "/a").0, Found::Route { id: 0 });
}

#[test]
fn the_last_slash_is_toggled_only_if_nothing_matches() {
    let routes =
        table(&[("/a", &["GET"]), ("/b/", &["GET"]), ("/c", &["GET"]), ("/c/", &["POST"])]);
    assert_eq!(find(&routes, Method::Get, "/a/").0, Found::Redirect);
    assert_eq!(find(&routes, Method::Get, "/a///").0, Found::Redirect);
    // Starlette redirects whatever the method.
    assert_eq!(find(&routes, Method::Post, "/b").0, Found::Redirect);
    assert!(matches!(find(&routes, Method::Get, "/c/").0, Found::MethodNotAllowed { .. }));
    assert_eq!(find(&routes, Method::Get, "//").0, Found::NotFound);
    let off = Routes::new(vec![spec(0, "/a", &["GET"])], false).expect("valid");
    assert_eq!(find(&off, Method::Get, "/a/").0, Found::NotFound);
}

#[test]
fn a_redirect_stays_on_this_origin() {
    let location = |path: &str, query: &str| {
        let mut out = Vec::new();
        redirect_location(path.as_bytes(), query.as_bytes(), &mut out);
        String::from_utf8(out).expect("ASCII")
    };
    assert_eq!(location("/a", "b=c"), "/a/?b=c");
    assert_eq!(location("/a%20b//", ""), "/a%20b");
    assert_eq!(location("/a/%2F", ""), "/a");
    assert_eq!(location("//evil.example/", ""), "/.//evil.example");
    assert_eq!(location("/\\evil.example", ""), "/%5Cevil.example/");
    assert_eq!(location("/\\/evil.example", ""), "/%5C/evil.example/");
}

#[test]
fn paths_that_are_not_utf_8_match_as_they_are() {
    let routes = gets(&["/user/{id}"]);
    let mut params = Vec::new();
    let path = b"/user/\xff\xfe";
    assert_eq!(routes.find(Method::Get, b"GET", path, &mut params), Found::Route { id: 0 });
    assert_eq!(params[0].of(path), Some(&b"\xff\xfe"[..]));
}

#[test]
fn what_starlette_does_not_take_is_an_error() {
    let error = |path: &str| Routes::new(vec![spec(0, path, &[])], true).expect_err("invalid").kind;
    assert_eq!(error("a"), RouteErrorKind::NotAbsolute);
    assert_eq!(error(""), RouteErrorKind::NotAbsolute);
    assert_eq!(error("/{a:date}"), RouteErrorKind::UnknownConvertor);
    assert_eq!(error("/{a}/{a:int}"), RouteErrorKind::RepeatedParam);
    let many: String = (0..17).map(|n| format!("/{{p{n}}}")).collect();
    assert_eq!(error(&many), RouteErrorKind::TooManyParams);
}

/// The routes with the expressions that Starlette compiles.
fn reference(specs: &[RouteSpec]) -> Vec<Route> {
    let route = |spec: &RouteSpec| {
        let pattern = Pattern::reference(&spec.path).expect("valid");
        Route::new(spec.id, pattern, spec.methods.clone())
    };
    specs.iter().map(route).collect()
}

/// Asks the routes one by one.
fn naive(routes: &[Route], method: &str, path: &[u8]) -> (Found, Vec<Span>) {
    let matching = |path: &[u8]| -> Vec<(&Route, Vec<Span>)> {
        let asked = routes.iter().map(|route| {
            let mut params = Vec::new();
            route.pattern.matches(path, &mut params).then_some((route, params))
        });
        asked.flatten().collect()
    };
    let matches = matching(path);
    if let Some((route, params)) = matches.iter().find(|(route, _)| route.allows(method)) {
        return (Found::Route { id: route.id }, params.clone());
    }
    let found = if matches.is_empty() {
        let toggled = toggle_slash(path);
        if path != b"/" && !matching(&toggled).is_empty() {
            Found::Redirect
        } else {
            Found::NotFound
        }
    } else {
        let mut allow: Vec<_> =
            matches.iter().flat_map(|(route, _)| route.methods.clone()).collect();
        allow.push("OPTIONS".to_owned());
        allow.sort();
        allow.dedup();
        let allow = allow.join(", ");
        if method == "OPTIONS" {
            Found::Options { allow }
        } else {
            Found::MethodNotAllowed { allow }
        }
    };
    (found, Vec::new())
}

const SEGMENTS: &[&str] = &[
    "a",
    "b",
    "me",
    "",
    "a.txt",
    "{}",
    "{}",
    "{}",
    "{:int}",
    "{:float}",
    "{:path}",
    "{}.txt",
    "a{}",
    "{}-{}",
    "{:path}.txt",
    "a{:path}",
    "{:int}{}",
    "{",
    "\u{e9}",
    "*",
];
const VALUES: &[&str] = &[
    "a", "b", "me", "", "a.txt", "1", "12.5", "x-y", "ab", "{", "\u{e9}", "a\n", "{p}", "*",
    "\u{fffd}",
];

fn pattern() -> impl Strategy<Value = String> {
    vec(select(SEGMENTS), 1..4).prop_map(|segments| {
        let mut number = 0;
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            for (index, piece) in segment.split_inclusive('{').enumerate() {
                if index > 0 {
                    // Only the rest of a parameter follows a brace.
                    path.push_str(&format!("p{number}"));
                    number += 1;
                }
                path.push_str(piece);
            }
        }
        path
    })
}

fn methods() -> impl Strategy<Value = Vec<String>> {
    let method = select(&["GET", "POST", "OPTIONS", "PROPFIND"][..]).prop_map(str::to_owned);
    prop_oneof![8 => vec(method, 1..3), 1 => Just(Vec::new())]
}

proptest! {
    #[test]
    fn the_table_is_the_list_in_order(
        routes in vec((pattern(), methods()), 1..10),
        paths in vec(vec(select(VALUES), 1..4), 1..8),
    ) {
        let specs: Vec<_> =
            (0..).zip(routes).map(|(id, (path, methods))| RouteSpec { id, path, methods }).collect();
        let list = reference(&specs);
        let table = Routes::new(specs, true).expect("valid");
        for segments in paths {
            let path = format!("/{}", segments.join("/"));
            let known = [(Method::Get, "GET"), (Method::Head, "HEAD"), (Method::Options, "OPTIONS"), (Method::Put, "PUT")];
            for (method, name) in known.into_iter().chain([(Method::Other, "PROPFIND"), (Method::Other, "X")]) {
                let mut params = Vec::new();
                let found = table.find(method, name.as_bytes(), path.as_bytes(), &mut params);
                prop_assert_eq!((found, params), naive(&list, name, path.as_bytes()), "{} {}", name, path);
            }
        }
    }
}

#[test]
fn a_catch_all_takes_what_no_route_takes() {
    let routes = Routes::new(vec![spec(7, "/a/{b}", &["GET"])], true).unwrap().catching_all(3);
    assert_eq!(find(&routes, Method::Get, "/a/x").0, Found::Route { id: 7 });
    for (method, path) in [
        (Method::Post, "/a/x"),
        (Method::Get, "/a/x/"),
        (Method::Options, "*"),
        (Method::Connect, ""),
        (Method::Get, "/"),
    ] {
        assert_eq!(find(&routes, method, path), (Found::Route { id: 3 }, vec![]), "{path}");
    }
    let mut params = Vec::new();
    assert_eq!(routes.find(Method::Other, b"BREW", b"/", &mut params), Found::Route { id: 3 });
}
