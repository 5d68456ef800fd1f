"""Pickled DataFrames as pandas 1, 2 and 3 wrote them, compressed; keys are pandas version and protocol."""

FRAMES = {
    ("1.5.3", 2): (
        "c-nnc`+E~b6iw3v>?(>1qT&NlVT%&2@~DdTDN195j;%(dth<|OcJ1yaXLr^%mB>SrwDtWK#J3>6QS|%p*X9q?nb}QWfSd2j+}W9X=iGbF+&!"
        "8!%eq(4gN#}7X=dElU8)S~Oy4UlBs!0wt%{_YPbCrw%`N(9U*=(ZjQXDL1Q}QN^dj{GrQa!;6T{I=K}v1y*Bsjj79A8V^vbq5;ZV&G9tzT?7"
        "rNz26xa<NX6wGMR}{^sX2}bfADT?Ts%V$OW6D*m&L(QO!qm)CftrCrJz*&5$hUFG29*3NJ~}$Hy)Il?$5jMt8n~L^8a3O-f2lgw#vu!=Qs$o"
        "5=9ApR?#6YqGYwo%uujdk%V>MBK9|c4{mUQumrXF-V9Z(_`AvLP>_{vblPgASu=x2m65PaavteqQ5!yUSPt%mZu}yyR#%w}hYTy=vTeHaqZX"
        ">weN?WTendBymBfo=S^8)fatqAP?Zrmln-c7Kj1@<tuE(hDgpc=Dd=v3vpj%{&??y<JzD8s#mwULKS3IN*)G6KMT1ovC%<rK=gbN;k)WonVc"
        "++d%0->;h!w4k7CnM@*=OhIRq*)9!)#-!C3arnT{g@dDOat%C4uw$90<RplP1-Fp{gArFdxj=VSu{#oI=-CY2vLar9hor%#@vvF0uxUjb9T`"
        "yYNGHLb&}h~4QBl*!2znN3+8ft&xEp<<ru_s1YBpu9q`rzll`|h7_PF47FToQsOdG?Kb?jpplIqwl`JbPg|7Yj?$>!<xiA3|nP;;(%R@!Rw)"
        "S=zYGu)bVo9E|i+(cG{dx~I~A!k&vKc5!&Z``NA)48C5X9QQtY`fr!5Iifm8X*{66w7lWvF8c$3yHlDCpO-V10t~(2@Z0xSQl%0OrqYLXg$q"
        "yJ&}>>jbB_i5*cfIaY#Vb2wq~)1*-OJN}w_bOo6IEKsl;Q>cQl67E8Wu>W(t7#Kw3_4@Cm&fAp}#DHepy1@Uqf6KY=J@LC7Z0M3fORiINmj-"
        "dxs(L6e-?GtYlxR>7+@9?T9MRMbE)=_R19HQVpK_CjAtbtiu_+<;D%Ql5q<XFKZziCs3^!Ip=MI{&3F-`Dlel>qp@(a|b1stATlxS51evROW"
        "2%M_nXw0MCg=2!p;{>k@9=Be^;~SF4RNRzM6HL_!8VoaBRI?4t3Bpp@v>@zFg0}==Zxg)3@a`DiQ!Urx*}kt@3rT(;uzX1Hk-(C!;bWQPC#n"
        "P=2GrN=0zQ>9n^9NHKFfEAYbdTg)7>&o$cF5ThFru+DeNNkxUxUzl{sZtvLIg&d}&>p3*M_KXPnc)cI}8c`KpSqm!SMcp!}BLySQTCTkBd)I"
        "&qmM-QH@_r$v#@5d6S!HU{$}!B4b~p9y}6zJpw9_*JGQBp|<<_)X3=moi=I;`cF}lga6f`2qf@;!l~lHty)f0OzatE5AW3J5Fgb&<bIhe*?H"
        "&HAgq76X5TeAT%=n0pzrTH2"
    ),
    ("1.5.3", 4): (
        "c-oCrTWi!n6wYR|t!=GsDb-4gh)?ywg@QLk=w%n7T^gaZFJc`g$?PUH$;QcqcCDrQ(3{L##}|Kz{ssSm;H$+)!5823%w%J;7sLc|Cds*c^L="
        "N|8{_@VfTk`!5#i9maoKKCQm#`R5W$D4nBgaCeI{<d75ie28z^W{!EfZ<y^s+aVm~eiIK&M?W5F*k`%Qa$Eq#aZIexVrf_%@4FJc5ALrEBU_"
        "O?%uC4<15PlZVkwbJxK;xi9Zid&EtQDQg4n9;;$(y^o*1s{am%H>Sdv_nxTSmIc$i@90>ZsSO}W4z?BRwTE=b?>1#JxTu;dEv1zO>^}(T<TH"
        "Nn6OSOHw!5>T4wbwE5MCkvJwyAg|LrO?0Ys*0Ay8}zNX8kJK|n(CnPL)vJ=!a*PnJkdEEtNK|<LA_6k^V*poYN68Plaf&_YJ4L;dHuwnyH%_"
        "0=Fb}uM4t4s3FGPbvgBgvS}OPNNM9n1*x0s`@))%JR+P4DW*=bNLZtjVwELlwJm+kmQB+{UwNoA<1RlF(xyg5*qRuLL)umNIB_qaxkbMPmJf"
        "v9$}v40pCmIw(+)nN>i6i6fDUscG*%-TUxuO4Giqe*P})+}9Tm&cW^kKM&8Rq}x7di0YKQ6lQ#^NY-n`{}!^I6S4<Z20~sx7E)_0ruNrCYR4"
        "BvDs8c5bX9%SdEnYA*}!n4Nj)3;f{#>kZ+Vs6MLwSU*CobqmPBec-Fd1VvI~M*IEGm;j6$-5R^&Gbc3ZrZt(BzEFj(}Gqr=Ocw10P@e_KK}F"
        "E>ItQq1H?_RwIHI)p+ip7s;nI8@wv^EqzI{kS#cF-=8Gr88=!Jc&#I3U|-l2e|G*Z=up(q=QLJDDoVD<}nhe)sQ+23<r_m0~Et~Z$Pg!NJxp"
        "=l6#Ww#@*vH{WydnMSy*vaV2E;@8+oMhed9B=5M?74xnOg0A-blBGW*iF2I#?WJ4SUgkh!67GTDV!FYyFA3${<H`MYP_WkBgjGQEb2?qUud~"
        "6XI%_nhUmHz<yo=o@"
    ),
    ("2.2.3", 5): (
        "c-n1L%Wl&^6pbAxr4OJ`wNR-lY=CqVKnTI2QXh$sh*cvYR!C(uwkH{@wiE2J+Ef$@B7LA?#lV6;;TQM=B(_v6L2TH;opC~(1V_mo$8+yJbI$"
        "SIFTB56%&Ci?YvItvaoK4`q+E}1Km;GJVutUj^*gcjQtXKmH&D=s1YgW<_d-UZ5c_dCz#(psC>DHb-ETTu8|giym-t*a1^J#G_j3e4i;}SAI"
        "a@wKwoHQEd?rkSR=bQ;eOQyoa|EA6^{5%xNxh!d{BSu%pVNk-J`@EnsDcn()^5r3aNWBrj*kw-Ls2sGTw4~FW!3(`rGCsD6Sk?D#)05kMKIX"
        "LPuYp*GcN?ph1mBTS;ox4CQVi`b@@vt`CJxzkU$2GA`HE!P(++&7_%sG806AvJ_eMihq6*fR5V+ph_tjfJ<s(A12~@z;amZn$D6>fh5@N9=q"
        "-!DUvv=)=tIb61|(38;VcUXwc0y<5v=N(e6o(6E#gY17P4ZeS!EY9!n}Y${^@FWz1BTR?NaflVac9+KAWnjkGlbM@8vyuT<wa|Gg%UP3>1<~"
        ">ueX8@3n)a47<%xZl^UqE^l4pGn|S6AKADA-^8X@=ru_zT^b>Eqfe?q=Z2&Q3>Dd2C1^|>2uX4U-1g?v?T_DPbGa|I&);P%eSLE01mbq^t8+"
        "3dx9x#Bz^3G>u;N3dgKp*rb)aYZ&P}f$D`_-V)A;*E8mCtk*m}kRBVhmel+H_+Lc_di3^iOHd||s9IzVcp32zqm;oYia?y?%vbv~VWHYC+Vu"
        "ZUFi;^0(p$qvYE;}~R{Kq1*i_vL?5xaYjkTPwjqUo1xD(&6TM>h2wIcUwqnb0d@^$x05S!^WDCOCm7pG3X7%8oB-~P~>?xGvwX)4|ztXOWmG"
        "G1vAV-mOmx{0Ntmr04aSv3bODI<X94u2zf4`@)!x!N*Od}IA{r8j4+Ik1~{Za!icET(6{M9`VB_hF*?`sy}3qb`|x{}h~mXSAQZHh%=YFv3J"
        "AlB>P^6a8G}g;el4Q9j~i-v0sDS)J4SBOf&mB8A|KlXru0#q*yX<s4@;H"
    ),
    ("3.1.1", 5): (
        "c-oCsUyB??5TD(fz0Kw>m&4#CVvIo$Hi%0kFL@BW%bx!-WDxa9INF|>-tFP$A3Z(XZ7?K0+?j)ZOXoy<@zn=Egdf3A;8)PMAc$6V&t!Ke3CS"
        "#Mb<b2)SN-Z&)em})AN3vcsMUgI5iPYE>{3ZT5j17`k-ql5zNd%ECFxXXb;at8!d$RXoJl4!nv|oIW^~E~*skA7@^Jr--Glj1ZPg|uiGy-(q"
        "t$s*WknqBCyWGW1lsCCR;9&kM2vq}GZBYct&xey)1aD6tk2V{He{#MlHHcns%IR6jO47qd{j5SsZSpMpuf~ZZ$))J)V}ZE{tq7W=Q&abUdMB"
        "fwd#zu1T}RgsNzJ%8N}QxlQ={-o&!o9^x}2#pRcKNb)r-VIs@I!9U=0AucU~x=?=b|qd6c2B}NaDD`pfGM}Uu38$_^DLiY7%$d+GI8yGy9<b"
        "u#7h7v&<>j@Q8MoQyeA7LOagyifQgF!JPPw_f!;OQGZe&clLEI)1hR$8*LYxXpt<`vu1zBDVfN-V<MQEN8m-3IY~ouU5p{u66|j1~h(l}34%"
        "%=8JEhcx62(5V7`1rq7D(7mukqXy&4gcP&GIg$KbgY+#L?z0HbZWrYoaGS|EWlcqHzrFgm>zhLyb-wxf^*2rQ4gaewmO!2ge01eqAVpNG!V<"
        ";ZJVSN9rv|u<SR$$A3H;DKqErQHYmwn;1-z<xunus9c?JcoLW!O>RUbmH!}OdZJ?;eB^0s3c%3o96J99R>e5=J}e>ld7jebY!W8iaeGQR3;|"
        "MUBqpL>q;%O8JUM(O<e?{$>lK6vwEkf?U7u?}5tWw{P~W8QuC`RgMq-EAwM+_!Rb+r&3n=(cC#d)jOK4eT^Ha0OYsbl?}rs4;*&&0!eOq+PS"
        "kg>S8*oek?x461f%d2~hWkd>o=mQcX6Bx48Ub9{%uJF3^LP3fW1RP%SOQ$FPH4f*@e>%T6R8v4(NPPz1w4r@B9*&ohY4aIl(nC~ui4F3$fL%"
        "A7FX1_8`)Xzo41aSQX`UYy_E*xm^k3U$PcHcd3+POzH{<h|>*IO)s)HqTe^B*z!pI!lm-U1BQTQJmjjk8h9i?w{KmhZISY4%mg1c{?qvJ?b1"
        "SSe{*2nu6)I%Sz)uL>Xk%_29?=ov=8cphs0`W&ss6ElTy32+aF8j@vV?oJqRDU;N&XAiCpDka>I_i$8B5;`@@i!@2{gOWs50T&Cfl_WG^a63"
        "LMt6=m$k0h8?"
    ),
}
