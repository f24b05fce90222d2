"""Two small files that torch 2.13.0 wrote: the same checkpoint in the zip format and in the one before."""

#     base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
#     state = OrderedDict(t=base.t(), slice=base[1:, ::2], half=torch.tensor([0.5, -2.0]).half(),
#                         bf16=torch.tensor([[1.5, -3.0]]).bfloat16(), param=torch.nn.Parameter(torch.tensor(2.5)),
#                         empty=torch.zeros(0, 3), flag=torch.tensor([True, False]))
#     state["bn.num_batches_tracked"] = torch.tensor(7)          # every key with 'module.' before it
#     state._metadata = OrderedDict({"": {"version": 1}})
#     torch.save({"state_dict": state, "epoch": 3, "lr": [0.1, None, True]}, file)

import base64
import zlib

import numpy as np

BASE = np.arange(12, dtype=np.float32).reshape(3, 4)
EXPECTED = {
    "t": BASE.T,
    "slice": BASE[1:, ::2],
    "half": np.array([0.5, -2.0], np.float16),
    "bf16": np.array([[1.5, -3.0]], np.float32),
    "param": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "flag": np.array([True, False]),
}

_ZIP = (
    "c-o~_TW{M`96z}<NweNJ=+<pzP%bHKX>NAXt!-K}yn%OVJwR3^WVw#pM04W&?UTZgDpi7(@rHPV2gEC%fXf4__6<O=Cm"
    "xV^Ks@a$aE_g%KJMCXjnz}v_W51T|M>r_m!(J)p+o{5I7ZMI(rmq2+cah>8rIUy`=%%ip;hMC4sQWUDM<owu!aq_QqwV"
    "nbloydL&r6%;Uw?c6~i_v*U6J4gr{YQq!cPxw<;~uNMnfV*dj`4wS{Y@lT>YEtyMECDmEI9WviRHB=n_HO57E(Y;D7Um"
    "<LIUrlsL~-pwS$l@OVefrJtvXT8~ierW(haz#Q?REq4vDJdjHcVXbmD)ljlVMvByWnkZoW7c#7Myf=w8mq>uiK@#mx<c"
    "?_DZC3~^p9OQ?J=Ce@PZ64DyQ}ts+zeD;~qiV<V|v`>+!7XF$?Dia~Q(}^%mZN^HOLBE_kdLF-*$vlAm>LJ<G!-hE;Ia"
    "p5?pDFT2b+c*SF$qRb&`_Elm%v<t6!?5|^ZLxz-p)lJRT>M(uCHn>j>Y}iS7vr`yXDi3cFsSt+CL~454qrZY7EyK)1_a"
    "gHJWM#<twTyZbKY%<#RDc2@LKrye8PT2Mr3m$0^hiq>W@WglT=Z3>k#4l=>Y9f2s^O^E*7W;E1+FnQx@9#sy7ifJwK$m"
    "fOfUFMmoY5Lu;j1!x~Xk|z*gL{%r4v8E*lTmy=uSH-baz{;|-7XCWd!qc(1hulG0BmtE7q=?IpP7KEJKdMuR(BaMyjgH"
    "x1h%9Rtf!$Z?!CrH|Y*nwDOL6)B>G$(3n?{1Mzs-6;S34L!cS^U!Fem!)`OM!tQ1hrIQ4EFap`<B0Dzb$Z>h>l#+us-l"
    "n!^!BqHS*rcxlfOQr#h~MG?Fm%e*KYT*s+qNoM%`#&QOKV_ew8m!1Lcq5KU$vfkp@OlxocqU0X8g}OQLY?B)Xl$tYK^#"
    ")WgpFKj&gZC3d8TA+*4x>P$uyuJ&NSW8E&3UyJ02jBPT$Cu5I{zsW#LB+JRTL`G(bI{jp8eIY}0@))OQSf^Q07&+h+mC"
    "zpL{QL*yD?)^#$8avPoH<dL>!tjwd*ww}KRh{g`ULv<UiC>`7pZ>wmkW<ree^8)g<kcaWB<6P?O(h-o35ex_+Km0HhvW"
    "E9Lvj#Lg~b72)W9?PCZhN@84naDtDB-p*7!A`Bw8us{h+}8y_66KZ$bt0p>2<G3**iuunDmp`+F+qL6-0I~l$-%jIS{z"
    "ECW2xeU*7#Zso2D;0`)E}!Re1wNB6al9L|7|h2h;v?m{3{kUPpZ@qCIp93_9T!CV1ALr8{ux1s{lf^7_(OPtAz6u{Ba%"
    "PJ;}6nNhUa%5PdC7WaDTcDG4K!jP#}AQSbvJKSn7sN!ywk5KrHtCAT}4o`qP8O{t?9HJJ_e^3!@tkU<*NAf5)@fy&#qg"
    "V*NeKV$UW5SU!mL_uDXo{o02;<URAZ!6XA7>qo~l=&}@xUGB7V<VqJg7&sRr-ub8gPCUlkq<k{qU3*_TeK8L+=+5`%{t"
    "sa>|G@"
)

_LEGACY = (
    "c-nQ8OH<QO6vvaav=EBoTT~R^#Yas;>BCnGBB0?JTx7#!()2>2q3KC(n86ulx}l=qK*xnkzk)kHid#Q|GcG(y+ESQsrz"
    "gF+kN@wUbM8r#`@&oQzR&(0d;fD~B-7*;|HSaQ3rt!WW*Da7*wof-OWh`pYua^Sae*>~GnPrIMO0F+nOYsVeTBzCy3-)"
    "4Yknjy#C9Q`R{C(zHEf4MpTsFKd^7755>i}=`x<tA6OvNg^Eyml#HAV~YR%LsusX6WqEke>{IXLc4yn!H3=iD646(G*j"
    "~lk^nrD#=g}6>_M>jI6M@`G+RfkkP)2gYI)Lq+Aw?!WM(rG0bKx{|bB#;QV@Uxb!(Y0`phoo`}*OYPvAt#oEiHX8QR)q"
    "fG{CdNK0V%aafnSvvDK5oYFetH7yalPxhJUId3a4Z^t)vc*=31ssVAw#qkuW0F&lsWV*;Ul!B(4SL{7wtbhpHDST$JIG"
    "GI*$JXx0W?4n^B;%;Qkki;*6VkP}3qC<t%`IUI7X`lsji;F`ql!Dz_1PT__OW4(;(Mm7&Ok1(c#SY`8F&aGpdtXLG_cA"
    "Im@=divbchN1j1@}VMeF|wA#(SgG&>U?G9-NTGV3ttg@bEAqkb#5ZWF8(Nm__ho1dor0FuWU2WDxd)m+U7HWtiwCldT5"
    "bf!qnQ*+NN#Nt9(!Ht+kx_*pMVG2fqJh$vBbD#J5nv?q4;Ox@d3s~Xh};;Piq^be#4&yPfN0c)Te$rs1S1u<8Imu-j2J"
    "q}eUOvy0ao2d;;+k{s~GiBRWS9|8@t;-b(g*?1&XKA*58|M7mFds7BP<ShY<n6+OGJsoEjJ{UWs0NF{{E~u$3@q=$N>E"
    "arPsFOkx~^LdYM(T0-2hpNDV$&L4y>)iyYyW7*H^!NTiPdn>96~xACXEn>H>37w=EWxvUpT9`=W|35fz&x$*@ePja9f#"
    "x5ylH`UmC8L1(zLHrf79F}<x>#zzHzXic;qXa{J&(U>WQ8AcmJ6Q;PX-ha?QZNC"
)

FILES = {
    kind: zlib.decompress(base64.b85decode(packed))
    for kind, packed in {"zip": _ZIP, "legacy": _LEGACY}.items()
}
